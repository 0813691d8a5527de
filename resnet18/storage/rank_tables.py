"""A table that several processes write together: by position, whole or not at all, in bounded memory.

A process alone writes straight into it. Of several each writes its rows into a file of its own; rank 0 merges these.
"""

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from resnet18.errors import RunError
from resnet18.storage.tables import STDOUT, Columns, Row, Table, open_table, writing

MERGED = 512  # rows at a time
SHOWN = 3  # images that can't be read, with the reason


class Rank(NamedTuple):
    """One of the processes."""

    number: int = 0
    count: int = 1


@contextmanager
def hidden_place(path: Path) -> Iterator[str]:
    """A directory for what is not whole yet, beside the table that it becomes."""
    with writing(path):
        place = TemporaryDirectory(dir=None if str(path) == STDOUT else path.parent, prefix=f".{path.name}.")
    with place as name:
        yield name


class RankTable:
    """One rank's part of a table, and on rank 0 in the end the whole.

    Rows that come before their turn wait in memory. A rank's turn is that of every ``count``-th image, as the loaders
    share them out.

    Args:
        path: The table; ``-`` is standard output.
        place: What :func:`hidden_place` gave rank 0.
        columns: Of the table.
        rank: This process.

    Raises:
        RunError: Where something can't be written.
    """

    def __init__(self, path: Path, place: Path, columns: Columns, rank: Rank) -> None:
        self.path, self.place, self.columns, self.rank = path, place, columns, rank
        self.rows = self.unreadable = 0  # in the table
        self.reasons: list[str] = []  # of the first images that can't be read
        self._waiting, self._next = list[Row](), rank.number
        with writing(path):
            self._table = self._whole() if rank.count == 1 else _RankRows(place / str(rank.number))

    def write(self, rows: Iterable[Row]) -> None:
        """Writes those of the rows, and of the waiting ones, whose turn it is."""
        for row in rows:
            heapq.heappush(self._waiting, row)
        ready: list[Row] = []
        while self._waiting and self._waiting[0].position == self._next:
            ready.append(heapq.heappop(self._waiting))
            self._next += self.rank.count
        self._write(ready)

    def close(self, meet: Callable[[], None]) -> None:
        """Writes the rest, and gives the table its name; ``meet`` is the ranks' barrier."""
        self._write(sorted(self._waiting))
        with writing(self.path):
            self._table.close()
            meet()
            if self.rank.number:
                return
            if self.rank.count > 1:
                self._merge([self.place / str(rank) for rank in range(self.rank.count)])
            if str(self.path) != STDOUT:
                (self.place / self.path.name).replace(self.path)

    def _whole(self) -> Table:
        return open_table(None if str(self.path) == STDOUT else self.place / self.path.name, self.columns)

    def _write(self, rows: Sequence[Row]) -> None:
        with writing(self.path):
            self._table.write(rows)
        self.rows += len(rows)
        for row in rows:
            if row.error is not None:
                self.unreadable += 1
                self.reasons += [f"{row.image} ({row.error})"] if self.unreadable <= SHOWN else []

    def _merge(self, paths: Sequence[Path]) -> None:
        if missing := [path for path in paths if not path.exists()]:
            raise RunError(f"output: there is no {missing[0]}: several machines need a directory that they share")
        self.rows, self.unreadable, self.reasons = 0, 0, []  # were this rank's
        self._table = self._whole()
        with ExitStack() as opened:
            ranks = [map(json.loads, opened.enter_context(path.open())) for path in paths]
            merged = (Row(*values) for values in heapq.merge(*ranks))
            while rows := list(islice(merged, MERGED)):
                self._write(rows)
        self._table.close()


class _RankRows:
    """The rows of one of several ranks, as JSON."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w")

    def write(self, rows: Sequence[Row]) -> None:
        self.file.writelines(f"{json.dumps(row)}\n" for row in rows)

    def close(self) -> None:
        self.file.close()
