"""Rows of numbers that show as a table, in a notebook and in a terminal."""

from typing import Any

from resnet18.errors import RunError
from resnet18.report.markup import columns_of, cut, isolated, number, table, text

ENDS, COLUMNS = 10, 40  # rows shown at either end of a long list, and columns of a cell in a terminal


class Rows(list[dict[str, Any]]):
    """A list of dicts, which may have different keys."""

    def frame(self) -> Any:
        """The rows as a ``pandas.DataFrame``; RunError where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise RunError("frame() needs pandas: pip install pandas") from None
        return pandas.DataFrame(list(self))

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """The columns' names, and each row's cells; of a long list those at both ends."""
        names = list(dict.fromkeys(name for row in self for name in row))
        rows = [[_written(row.get(name, ""), name) for name in names] for row in self.ends()]
        if len(self) > 2 * ENDS:
            rows.insert(ENDS, ["…"] * len(names))
        return names, rows

    def ends(self) -> list[dict[str, Any]]:
        return [*self] if len(self) <= 2 * ENDS else [*self[:ENDS], *self[-ENDS:]]

    def __repr__(self) -> str:
        names, rows = self.cells()
        lines = [[cut(" ".join(cell.split()), COLUMNS) for cell in row] for row in (names, *rows)]
        widths = [max(map(columns_of, column)) for column in zip(*lines, strict=True)]
        padded = [
            [cell + " " * (width - columns_of(cell)) for cell, width in zip(line, widths, strict=True)]
            for line in lines
        ]
        return "\n".join("  ".join(line).rstrip() for line in padded) if self else "no rows"

    def _repr_html_(self) -> str:
        names, rows = self.cells()
        return table([text(name) for name in names], [[isolated(cell) for cell in row] for row in rows])


def _written(value: Any, name: str) -> str:
    return number(value, name) if isinstance(value, float) else str(value)
