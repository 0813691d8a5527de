"""The wall: which room may import which, and how large each may grow."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "resnet18"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = [  # from the ground up; a file imports from floors below its own, and within its room
    {"errors"},
    {"backbone", "losses", "metrics", "schedules"},
    {"optimization"},
    {"storage"},
    {"engine", "report"},
    {"data.feeds"},
    {"data", "callbacks", "analysis"},
    {"classifier"},
    {"runs"},
    {"cli"},
    {"__init__"},
    {"__main__", "commands"},
]
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    """``data.feeds.order`` is in ``data.feeds``, ``data.base`` in ``data``."""
    parts = module.split(".")
    return next(room for length in range(len(parts), 0, -1) if (room := ".".join(parts[:length])) in ROOMS)


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(file: Path) -> set[str]:
    """The package's own modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("resnet18."):
            found.add(node.module.removeprefix("resnet18."))
        elif isinstance(node, ast.ImportFrom) and node.module == "resnet18":
            found |= {one.name if one.name in ROOMS else "__init__" for one in node.names}
        elif isinstance(node, ast.Import):
            found |= {one.name.removeprefix("resnet18.") for one in node.names if one.name.startswith("resnet18.")}
    return found


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_imports_from_floors_below_or_its_own_room(file: Path) -> None:
    room = room_of(name_of(file))
    for module in imports(file):
        assert room_of(module) == room or ROOMS[room_of(module)] < ROOMS[room], f"{name_of(file)} imports {module}"


ROOT_FILES = sorted(PACKAGE.glob("*.py"))
READ = (
    "backbone",
    "classifier",
    "losses",
    "metrics",
    "optimization",
    "schedules",
    "data/base",
    "data/digits",
    "callbacks/freezing",
)
TRUSTED = ("analysis", "engine", "storage", "cli", "report", "data/feeds")
LINES = {  # at most
    "what a forker reads": 1_200,
    "yours": 2_900,
    "trusted": 9_300,
    "commands": 2_000,
    "in all": 14_150,
}


def lines(files: list[Path]) -> int:
    return sum(len(file.read_text().splitlines()) for file in files)


def sizes() -> dict[str, int]:
    trusted = [file for folder in TRUSTED for file in (PACKAGE / folder).rglob("*.py")]
    commands = list((PACKAGE / "commands").rglob("*.py"))
    reads = [PACKAGE / f"{name}.py" for name in READ]
    return {
        "what a forker reads": lines([*reads, ROOT / "configs" / "digits.yaml"]),
        "yours": lines([file for file in FILES if file not in (*trusted, *commands)]),
        "trusted": lines(trusted),
        "commands": lines(commands),
        "in all": lines(FILES),
    }


def test_the_house_stays_as_small_as_it_is() -> None:
    assert {name: size for name, size in sizes().items() if size > LINES[name]} == {}
    assert {name_of(file): lines([file]) for file in FILES if lines([file]) > 250} == {}
    assert len(ROOT_FILES) <= 12


def test_the_readme_says_how_large_it_is() -> None:
    house = (ROOT / "README.md").read_text().partition("## The house")[2].partition("\n## ")[0]
    stated = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) lines", house)]
    assert stated == pytest.approx(list(sizes().values()), rel=0.05)


@pytest.mark.parametrize("file", [file for file in FILES if file.stem not in ("__init__", "__main__")], ids=name_of)
def test_a_module_has_its_test_file(file: Path) -> None:
    place = ROOT / "tests" / file.relative_to(PACKAGE)
    assert place.with_name(f"test_{file.name}").exists()


def test_no_configuration_is_longer_than_a_page() -> None:
    for config in (ROOT / "configs").rglob("*.yaml"):
        assert lines([config]) <= 60, config


def test_no_files_import_each_other_in_a_circle() -> None:
    names = {name_of(file) for file in FILES}
    graph = {name_of(file): imports(file) & names for file in FILES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(names)  # a circle raises a CycleError
