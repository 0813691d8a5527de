"""A table by several ranks has every row once, by position, whatever order they come in."""

from pathlib import Path

import pytest

from resnet18.errors import RunError
from resnet18.storage.rank_tables import MERGED, Rank, RankTable, hidden_place
from resnet18.storage.tables import Columns, Row


def row(position: int) -> Row:
    return Row(position, f"{position}.png", [("cat", 0.5)])


def images(path: Path) -> list[str]:
    return [line.partition(",")[0] for line in path.read_text().splitlines()[1:]]


def test_ranks_with_odd_shares_write_one_table(tmp_path: Path) -> None:
    path, count, ranks = tmp_path / "t.csv", 2 * MERGED + 1, 3
    with hidden_place(path) as place:
        tables = [RankTable(path, Path(place), Columns(), Rank(number, ranks)) for number in range(ranks)]
        for number, table in enumerate(tables):
            own = [row(position) for position in range(number, count, ranks)]
            table.write(own[:5])
            table.write(own[:4:-1])  # the rest from behind
        assert not path.exists()
        for table in reversed(tables):  # rank 0 merges when all have met
            table.close(lambda: None)
    assert images(path) == [f"{position}.png" for position in range(count)]
    assert tables[0].rows == count
    assert [one.name for one in tmp_path.iterdir()] == ["t.csv"]


def test_one_rank_writes_as_rows_come_and_keeps_those_before_their_turn(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with hidden_place(path) as place:
        partial, table = Path(place, "t.csv"), RankTable(path, Path(place), Columns(), Rank())
        table.write([row(1), row(0), row(3)])
        assert images(partial) == ["0.png", "1.png"]
        table.write([row(5), row(2)])
        assert images(partial) == ["0.png", "1.png", "2.png", "3.png"]
        assert not path.exists()
        table.close(lambda: None)  # 4 never came
    assert images(path)[4:] == ["5.png"]


def test_unreadable_images_are_counted_in_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with hidden_place(path) as place:
        tables = [RankTable(path, Path(place), Columns(error=True), Rank(number, 2)) for number in range(2)]
        for number, table in enumerate(tables):
            table.write([Row(position, f"{position}.png", error="empty") for position in range(number, 9, 2)])
        for table in reversed(tables):
            table.close(lambda: None)
    assert (tables[0].rows, tables[0].unreadable) == (9, 9)
    assert tables[0].reasons == ["0.png (empty)", "1.png (empty)", "2.png (empty)"]


def test_an_earlier_table_stays_if_the_new_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("earlier")
    with hidden_place(path) as place:
        RankTable(path, Path(place), Columns(), Rank()).write([row(0)])
    assert path.read_text() == "earlier"
    with hidden_place(path) as place:
        table = RankTable(path, Path(place), Columns(), Rank(0, 2))
        with pytest.raises(RunError, match=r"there is no .*/1: several machines need a directory that they share"):
            table.close(lambda: None)
    assert [one.name for one in tmp_path.iterdir()] == ["t.csv"]
