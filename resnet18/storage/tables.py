"""Tables of predictions, written as they come: CSV, JSON lines or Parquet, by the file's suffix."""

import csv
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from resnet18.errors import RunError, UsageError, hint

STDOUT = "-"  # in place of a file, as CSV
ROW_GROUP = 8192  # rows that a Parquet table holds back: 16 MB of embeddings of 512 numbers


class Row(NamedTuple):
    """What a table says of an image; of one that can't be read neither a class nor an embedding."""

    position: int  # its place among all images
    image: str
    top: Sequence[tuple[str, Any]] = ()  # classes and their probabilities, the likeliest first
    embedding: Sequence[float] | None = None
    error: str | None = None  # why it can't be read


class Columns(NamedTuple):
    """Which columns a table has beside image, class and probability."""

    topk: int = 1
    several: bool = False  # classes an image: joined by +, with a list of probabilities
    embedding: bool = False
    error: bool = False

    def record(self, row: Row, classes: dict[str, Any]) -> dict[str, Any]:
        """A row by column, around what it says of ``classes``."""
        found = {"image": row.image, **classes}
        found |= {"embedding": row.embedding} if self.embedding else {}
        return found | ({"error": row.error} if self.error else {})

    def flat(self, row: Row) -> dict[str, Any]:
        """A row with a column for each class asked for, and for its probability."""
        classes: dict[str, Any] = {}
        for place in range(self.topk):
            number = f"_{place + 1}" if place else ""
            found = row.top[place] if place < len(row.top) else ("", None)
            classes |= dict(zip((f"class{number}", f"probability{number}"), found, strict=True))
        return self.record(row, classes)


class Table(Protocol):
    """A table that is open for writing."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class CSVTable:
    """Probabilities have six decimals, several are joined by +, an embedding is numbers with spaces between."""

    def __init__(self, path: Path | None, columns: Columns) -> None:
        self.file, self.columns = _text_file(path), columns
        self.writer = csv.DictWriter(self.file, columns.flat(Row(0, "")))
        self.writer.writeheader()

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.writer.writerow({name: self._text(name, value) for name, value in self.columns.flat(row).items()})
        self.file.flush()

    def _text(self, name: str, value: Any) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        if name == "embedding":
            return " ".join(f"{number:.9g}" for number in value)  # nine digits give a float32 back
        return "+".join(f"{probability:.6f}" for probability in (value if self.columns.several else [value]))

    def close(self) -> None:
        self.file.close()


class JSONLines:
    """An object a line; of more than one class asked for, ``top`` has all: [[name, probability], …]."""

    def __init__(self, path: Path | None, columns: Columns) -> None:
        self.file, self.columns = _text_file(path), columns

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            top = [[name, _rounded(probability, 6)] for name, probability in row.top]
            first, probability = top[0] if top else ("", None)
            classes = {"class": first, "probability": probability} | ({"top": top} if self.columns.topk > 1 else {})
            record = self.columns.record(row, classes)
            if "embedding" in record:
                record["embedding"] = _rounded(row.embedding, 9)
            self.file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self.file.close()


class ParquetTable:
    """Probabilities are float32, or lists of it where an image has several classes; an embedding is a list too."""

    def __init__(self, path: Path | None, columns: Columns) -> None:
        import pyarrow
        from pyarrow import parquet

        self.columns, self.arrow = columns, pyarrow
        number, numbers = pyarrow.float32(), pyarrow.list_(pyarrow.float32())
        kinds = {"probability": numbers if columns.several else number, "embedding": numbers}
        names = columns.flat(Row(0, ""))  # class_2 is of the kind of class
        self.schema = pyarrow.schema([(name, kinds.get(name.partition("_")[0], pyarrow.string())) for name in names])
        self.writer, self.held = parquet.ParquetWriter(path, self.schema), self.schema.empty_table()

    def write(self, rows: Sequence[Row]) -> None:
        more = self.arrow.Table.from_pylist([self.columns.flat(row) for row in rows], self.schema)
        self.held = self.arrow.concat_tables([self.held, more])
        if len(self.held) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self.writer.write_table(self.held)
        self.held = self.schema.empty_table()

    def close(self) -> None:
        self._flush()
        self.writer.close()


KINDS = {".csv": CSVTable, ".jsonl": JSONLines, ".parquet": ParquetTable}


def open_table(path: Path | None, columns: Columns) -> Table:
    """Opens a table by its file's suffix; without a path it is standard output's, as CSV."""
    return KINDS[path.suffix.lower() if path else ".csv"](path, columns)


def check_output(output: str) -> None:
    """Checks that a table can be written, before anything is computed for it.

    Raises:
        UsageError: For a suffix of no known kind.
        RunError: For a place that can't be written, and where a library is missing.
    """
    if output == STDOUT:
        return
    suffix = Path(output).suffix.lower()
    if suffix not in KINDS:
        known = f"{', '.join(KINDS)}, or be {STDOUT} for standard output"
        raise UsageError(f"output: {output} should end in {known}{hint(suffix, KINDS)}")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise RunError(f"output: {output} needs pyarrow, which is not installed: pip install pyarrow")
    check_place(output)


def check_place(output: str) -> Path:
    """The path of a file to write; RunError where that can't be done."""
    path = Path(output)
    if not path.parent.is_dir():
        raise RunError(f"output: there is no directory {path.parent}")
    if path.is_dir():
        raise RunError(f"output: {output} is a directory")
    with writing(output):
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError("the file is read-only")
        tempfile.TemporaryFile(dir=path.parent).close()
    return path


@contextmanager
def writing(output: object) -> Iterator[None]:
    """Turns what the system says against a write into a RunError; a closed pipe is left as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        place = "standard output" if str(output) == STDOUT else output
        raise RunError(f"output: {place} can't be written: {error.strerror or error}") from None


def _text_file(path: Path | None) -> TextIO:
    # Of file names that are not Unicode, "\udcff" is what both formats can hold.
    place = 1 if path is None else path
    return open(place, "w", encoding="utf-8", errors="backslashreplace", newline="", closefd=path is not None)


def _rounded(value: Any, digits: int) -> Any:
    """Numbers without the digits that float32 does not have."""
    if isinstance(value, Iterable):
        return [float(f"{number:.{digits}g}") for number in value]
    return value if value is None else float(f"{value:.{digits}g}")
