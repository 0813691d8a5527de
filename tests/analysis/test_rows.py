"""Rows as a table of text, of HTML and of pandas."""

import sys

import pytest

from resnet18.analysis.rows import Rows
from resnet18.errors import RunError

ROWS = Rows([{"step": 20, "val/top1": 0.98765}, {"step": 40, "name": "<猫> & $5", "loss": 0.123456}])


def test_rows_are_a_list_and_show_as_a_table() -> None:
    assert [*ROWS] == ROWS == [{"step": 20, "val/top1": 0.98765}, {"step": 40, "name": "<猫> & $5", "loss": 0.123456}]
    assert [line.split() for line in repr(ROWS).splitlines()] == [
        ["step", "val/top1", "name", "loss"],
        ["20", "98.77", "%"],
        ["40", "<猫>", "&", "$5", "0.1235"],
    ]
    html = ROWS._repr_html_()
    assert "<th>val/top1</th>" in html
    assert "&lt;猫&gt; &amp; $5" in html
    assert repr(Rows()) == "no rows"
    assert "<table" in Rows()._repr_html_()


def test_of_many_rows_both_ends_are_shown() -> None:
    shown = repr(Rows({"n": n} for n in range(100))).split()
    assert shown == ["n", *map(str, range(10)), "…", *map(str, range(90, 100))]


def test_a_frame_needs_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = ROWS.frame()
    assert frame.shape == (2, 4)
    assert frame["step"].tolist() == [20, 40]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RunError, match=r"^frame\(\) needs pandas: pip install pandas$"):
        ROWS.frame()
