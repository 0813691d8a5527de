"""Configuration files: what is YAML and no configuration is refused by line, and what is one is read as it stands."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace

from resnet18.cli.config_files import check_file, leaves, read_yaml
from resnet18.errors import UsageError

REFUSED = {
    "a: 1\nb:\n  c: 1\n  c: 2\n": "line 4: not valid YAML: b.c is given twice, first in line 3",
    "b: [{c: 1}, {d: 2, d: 3}]\n": r"line 1: not valid YAML: b\[1\].d is given twice",
    "a: &a\n  init_args:\n    b: *a\n": "line 1: not valid YAML: a.b holds itself",
    "a: &a [*a]\n": r"line 1: not valid YAML: a\[0\] holds itself",
    "a: *nothing\n": "line 1: not valid YAML: found undefined alias",
    "? [1]\n: 2\n": "line 1: not valid YAML: found unhashable key",
    "a: \x00\n": "not valid YAML: special characters are not allowed",
    "a: " + 5000 * "[": "nested too deeply",
    "# nothing\n": "is empty",
    "word\n": "should hold keys and values, not str",
    "model.schedule.warmup: 0.1\nmodel.schedule: null\n": "model.schedule.warmup can't be set: schedule is null",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20].replace("\x00", "0"))
def test_a_file_is_refused_by_name_and_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=REFUSED[text]) as refused:
        read_yaml(path)
    assert str(refused.value).startswith(str(path))
    assert len(str(refused.value).splitlines()) == 1


def test_equal_keys_of_different_mappings_anchors_and_merges_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: &a {x: 1, y: {x: 2}}\nb: {<<: *a, x: 3}\nc: [*a, *a]\n")
    assert read_yaml(tmp_path / "mine.yaml") == {
        "a": {"x": 1, "y": {"x": 2}},
        "b": {"x": 3, "y": {"x": 2}},
        "c": [{"x": 1, "y": {"x": 2}}] * 2,
    }


def test_dotted_keys_as_in_a_sweep_trial_are_put_into_their_groups(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(
        '{"model.schedule.init_args.warmup": 0.1, "model.schedule": "a.Class", "model.ema": null, "model": {"x": 1}}'
    )
    schedule = {"class_path": "a.Class", "init_args": {"warmup": 0.1}}
    assert read_yaml(tmp_path / "mine.json") == {"model": {"x": 1, "ema": None, "schedule": schedule}}


CLASS = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
WRONG = {
    "beside its arguments": ({"model": {"optimizer": {**CLASS, "lr": 1}}}, "model.optimizer.lr: .* in its init_args"),
    "misspelt": ({"model": {"optimizer": {"clas_path": "SGD", "init_args": {}}}}, "clas_path: .*mean class_path?"),
    "arguments in a list": ({"data": {**CLASS, "init_args": [1]}}, r"data.init_args should hold .*, not \[1\]"),
    "no name": ({"data": {**CLASS, "class_path": 3}}, "data.class_path should name a class, not 3"),
    "within a class": ({"data": {**CLASS, "init_args": {"x": {**CLASS, "y": 1}}}}, "data.x.y: there is no such key"),
    "number as a key": ({"data": {**CLASS, "init_args": {3: 4}}}, "data.3: a key should be a word"),
    "group": ({"trainer": None}, "trainer should hold keys and values, not null"),
    "data": ({"data": None}, "data should name a class of data"),
    "linked": ({"model": {"mean": [0.5]}}, "model.mean can't be given; it is taken from data.mean"),
    "unknown": ({"modle": {}}, "modle: there is no such key; did you mean model?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_describes_no_class_is_refused_by_key(case: str) -> None:
    content, message = WRONG[case]
    with pytest.raises(UsageError, match=rf"^mine\.yaml: .*{message}"):
        check_file(content, "mine.yaml")


def test_what_may_stand_in_a_file_is_let_pass() -> None:
    with_more = {**CLASS, "init_args": {"sizes": {1: 2}, "inner": "a.Class"}, "dict_kwargs": {"x": 1}}
    content = {"model": {"backbone": "a.Net", "optimizer": {"init_args": {"lr": 0.3}}}, "data": with_more}
    check_file({**content, "trainer": {"callbacks": [CLASS, "EarlyStopping"], "logger": CLASS}}, "mine.yaml")
    check_file(yaml.safe_load("data: {class_path: Digits, init_args: }"), "mine.yaml")


def test_values_are_named_by_their_dotted_keys() -> None:
    config = Namespace(a=Namespace(b=[1, {"c": 2}], d={}), e=[], f=None)
    assert dict(leaves(config)) == {"a.b[0]": 1, "a.b[1].c": 2, "a.d": {}, "e": [], "f": None}
