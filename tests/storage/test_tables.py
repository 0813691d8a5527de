"""Every format of a table, read back by another library; and places that can't be written."""

import csv
import importlib.util
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from pyarrow import parquet

from resnet18.errors import RunError, UsageError
from resnet18.storage.tables import ROW_GROUP, Columns, Row, check_output, check_place, open_table, writing

VECTOR = torch.tensor([0.1, -3.4028234e38, 1e-7, 2.0]).tolist()  # float32 that decimals don't hold
ROWS = [
    Row(0, "a, b.png", [("cat", 0.75), ("dog", 0.25)], VECTOR),
    Row(1, "ü\n.png", error="the file is empty"),
    Row(2, "c.png", [("dog", 0.9999999), ("cat", 1e-7)], VECTOR),
]
SEVERAL = [Row(0, "a.png", [("cat+dog", [0.75, 0.5])]), Row(1, "b.png", [("", [])]), Row(2, "c.png", error="no")]


def written(path: Path, rows: list[Row], **columns: Any) -> Path:
    table = open_table(path, Columns(**columns))
    table.write(rows[:2])
    table.write(rows[2:])
    table.close()
    return path


def test_a_csv_table(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ROWS, topk=2, embedding=True, error=True)
    with path.open(newline="") as file:
        header, first, broken, last = csv.reader(file)
    assert header == ["image", "class", "probability", "class_2", "probability_2", "embedding", "error"]
    assert first[:5] == ["a, b.png", "cat", "0.750000", "dog", "0.250000"]
    assert torch.tensor([float(number) for number in first[5].split()]).tolist() == VECTOR
    assert broken == ["ü\n.png", "", "", "", "", "", "the file is empty"]
    assert last[1:5] == ["dog", "1.000000", "cat", "0.000000"]
    assert pandas.read_csv(path).error.tolist()[1] == "the file is empty"


def test_json_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "t.JSONL", ROWS, topk=2, embedding=True, error=True)
    first, broken, last = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert list(first) == ["image", "class", "probability", "top", "embedding", "error"]
    assert (first["class"], first["probability"], first["error"]) == ("cat", 0.75, None)
    assert first["top"] == [["cat", 0.75], ["dog", 0.25]]
    assert torch.tensor(first["embedding"]).tolist() == VECTOR
    assert broken == {
        **{"image": "ü\n.png", "class": "", "probability": None, "top": [], "embedding": None},
        "error": "the file is empty",
    }
    assert last["top"][1] == ["cat", 1e-7]
    assert list(json.loads(written(path, ROWS[:1]).read_text())) == ["image", "class", "probability"]


def test_a_parquet_table(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", ROWS, topk=2, embedding=True, error=True)
    kinds = {field.name: str(field.type) for field in parquet.read_schema(path)}
    assert [*kinds] == ["image", "class", "probability", "class_2", "probability_2", "embedding", "error"]
    assert [kinds[name] for name in ("class_2", "probability_2")] == ["string", "float"]
    assert kinds["embedding"] == "list<element: float>"
    first, broken, last = parquet.read_table(path).to_pylist()
    assert first == {
        **{"image": "a, b.png", "class": "cat", "probability": 0.75, "class_2": "dog", "probability_2": 0.25},
        **{"embedding": VECTOR, "error": None},
    }
    assert [broken[name] for name in kinds] == ["ü\n.png", "", None, "", None, None, "the file is empty"]
    assert last["probability_2"] == pytest.approx(1e-7)
    assert len(pandas.read_parquet(path)) == 3


def test_several_classes_an_image(tmp_path: Path) -> None:
    found = written(tmp_path / "t.csv", SEVERAL, several=True, error=True).read_text().splitlines()
    assert found[1:] == ["a.png,cat+dog,0.750000+0.500000,", "b.png,,,", "c.png,,,no"]
    probabilities = [[0.75, 0.5], [], None]
    lines = written(tmp_path / "t.jsonl", SEVERAL, several=True, error=True).read_text().splitlines()
    assert [json.loads(line)["probability"] for line in lines] == probabilities
    table = parquet.read_table(written(tmp_path / "t.parquet", SEVERAL, several=True, error=True))
    assert table.column("probability").to_pylist() == probabilities


def test_a_parquet_table_holds_few_rows_back(tmp_path: Path) -> None:
    table = open_table(tmp_path / "t.parquet", Columns())
    for first in range(0, 3 * ROW_GROUP, 1000):
        table.write([Row(number, str(number), [("cat", 1.0)]) for number in range(first, first + 1000)])
    table.close()
    read = parquet.ParquetFile(tmp_path / "t.parquet")
    assert read.num_row_groups == 3
    assert read.read().column("image").to_pylist() == [str(number) for number in range(25_000)]


@pytest.mark.parametrize(
    ("output", "kind", "message"),
    [
        ("t.xlsx", UsageError, "t.xlsx should end in .csv, .jsonl, .parquet, or be - for standard output"),
        ("t.cvs", UsageError, "or be - for standard output; did you mean .csv?"),
        ("t", UsageError, "t should end in .csv"),
        ("", UsageError, "should end in .csv"),
        ("nowhere/t.csv", RunError, "there is no directory nowhere"),
        ("folder.csv", RunError, "folder.csv is a directory"),
        ("/proc/t.csv", RunError, "/proc/t.csv can't be written: No such file or directory"),  # for root too
        ("-", None, ""),
        ("t.csv", None, ""),
    ],
)
def test_a_place_is_checked(
    output: str, kind: type | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.csv").mkdir()
    if kind is None:
        check_output(output)
    else:
        with pytest.raises(kind) as raised:
            check_output(output)
        assert str(raised.value).startswith("output: ")
        assert message in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").touch()
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as for another user than root
    with pytest.raises(RunError, match=r"t\.csv can't be written: the file is read-only"):
        check_place(str(tmp_path / "t.csv"))


def test_parquet_needs_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"t\.parquet needs pyarrow, which is not installed: pip install pyarrow"):
        check_output("t.parquet")


def test_a_full_disk_is_an_error_and_a_closed_pipe_is_left_to_the_program(tmp_path: Path) -> None:
    (tmp_path / "t.csv").symlink_to("/dev/full")
    table = open_table(tmp_path / "t.csv", Columns())
    with pytest.raises(RunError, match=r"output: t\.csv can't be written: No space left on device"), writing("t.csv"):
        table.write(ROWS)
    with suppress(OSError):
        table.close()
    with pytest.raises(BrokenPipeError), writing("-"):
        raise BrokenPipeError
