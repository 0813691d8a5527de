"""Configurations with one fault each, some of those that ``benchmarks/mutated_configs.py`` runs, are refused."""

from collections import Counter
from pathlib import Path

import pytest
from mutated_configs import Answer, answer_to, faults
from mutations import SHARES, Mutation, mutations

ALL = mutations()


def test_a_hundred_mutations_of_every_kind_are_made_the_same_each_time() -> None:
    assert Counter(mutation.kind for mutation in ALL) == SHARES
    assert len({(mutation.source, mutation.content) for mutation in ALL}) == sum(SHARES.values()) == 100
    assert mutations() == ALL


@pytest.mark.parametrize("mutation", ALL[3::6], ids=lambda one: f"{one.kind}: {one.key}, {one.change}")
def test_a_mutated_configuration_is_refused_by_file_and_key(
    mutation: Mutation, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("fonts")))  # torchmetrics imports matplotlib
    answer = answer_to(mutation)
    assert faults(mutation, answer) == [], answer.err


def test_an_answer_that_is_not_as_it_should_be_is_told_apart() -> None:
    misspelt = Mutation("misspelt", "a.yaml", "model.compil", "", "", below="configs/digits.yaml", meant="compile")
    good = Answer(2, "mutated.yaml: model.compil: there is no such key; did you mean compile?\n", [])
    assert faults(misspelt, good) == []
    for wrong in (
        good._replace(status=0),
        good._replace(err=""),
        good._replace(err=good.err + 10 * "more\n"),
        good._replace(err=f"Traceback (most recent call last):\n{good.err}"),
        good._replace(err=good.err.replace("mutated.yaml", "the file")),
        good._replace(err=good.err.replace("model.compil:", "model:")),
        good._replace(err=good.err.replace("; did you mean compile?", "")),
        good._replace(err=f"configs/digits.yaml, {good.err}"),
        good._replace(left=["runs"]),
    ):
        assert len(faults(misspelt, wrong)) >= 1
