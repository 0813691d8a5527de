"""Errors of the commands that only look at runs or start others."""

import pytest

from resnet18.cli.plain import PlainParser
from resnet18.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cuont", "3"], "--cuont: there is no such option; did you mean --count?"),
        (["--coun", "3"], "--coun: there is no such option; did you mean --count?"),  # no abbreviations
        (["--count", "x"], "--count: invalid int value: 'x'"),
        (["--count"], "--count: expected one argument"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str) -> None:
    parser = PlainParser("sweep")
    parser.add_argument("--count", type=int)
    with pytest.raises(UsageError) as raised:
        parser.parse_args(arguments)
    assert str(raised.value) == message


def test_the_line_names_the_command(lightning) -> None:
    done = lightning("runs", "--nonsense")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("lightning runs: --nonsense: there is no such option")
    assert len(done.err.splitlines()) == 1
