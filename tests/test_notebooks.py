"""The notebooks run from a fresh clone's point of view, and are stored as a run left them."""

import base64
import re
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import CONFIG, copied
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MAX_BYTES = 300_000
DRAWS = re.compile(r"plt\.show\(\)|\.plot_\w+\(|^run\S*\.(plot|watch)\(", re.MULTILINE)
ABSOLUTE = re.compile(r"(?<![\w.~])/(?:home|root|Users|tmp|var|work|opt|usr|mnt|private|content)/|\b[A-Za-z]:\\")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    assert isinstance(notebook, NotebookNode)
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def undrawn(notebook: NotebookNode) -> list[str]:
    """The cells that draw a figure and have none among their outputs."""
    return [
        cell.id
        for cell in code_cells(notebook)
        if DRAWS.search(cell.source) and not any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]


def texts(notebook: NotebookNode) -> list[str]:
    """What a reader sees: every cell's source and all of its outputs but the pictures."""
    found = [cell.source for cell in notebook.cells]
    for output in (output for cell in code_cells(notebook) for output in cell.outputs):
        found += [output.get("text", ""), *output.get("traceback", [])]
        found += [str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/")]
    return found


@each_notebook
def test_runs_from_top_to_bottom(path: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)  # what is set there would take the inline figures' place
    copied(trained, tmp_path)
    (tmp_path / "configs").symlink_to(CONFIG.parent)
    notebook = read(path)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    # Where no kernel is installed, python3 is this interpreter; so none shall be found.
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    assert kernel.kernel_spec is not None
    assert kernel.kernel_spec.argv[0] == sys.executable

    # A cell that raises stops the execution with a CellExecutionError, which shows it.
    NotebookClient(notebook, km=kernel, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()

    assert all(cell.execution_count for cell in code_cells(notebook))
    assert any(DRAWS.search(cell.source) for cell in code_cells(notebook))
    assert undrawn(notebook) == []
    assert {entry.name for entry in (tmp_path / "runs" / "digits").iterdir()} == {"latest", trained.name}


@each_notebook
def test_stored_with_clean_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert undrawn(notebook) == []
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert [output.text for cell in cells for output in cell.outputs if output.get("name") == "stderr"] == []
    assert [text for text in texts(notebook) if ABSOLUTE.search(text)] == []
    assert [cell.id for cell in cells if "execution" in cell.metadata] == []  # times of day
    assert "widgets" not in notebook.metadata
    sources = [cell.source.splitlines() for cell in cells]
    assert [lines[0] for lines in sources if len(lines) > 15 or max(map(len, lines)) > 100] == []
    assert path.stat().st_size < MAX_BYTES


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


def test_the_readmes_picture_is_the_first_of_the_notebook() -> None:
    outputs = [output for cell in code_cells(read(NOTEBOOKS[0])) for output in cell.outputs]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    picture = NOTEBOOKS[0].parents[1] / "docs" / "first_run.png"
    assert picture.read_bytes() == base64.b64decode(pictures[0])
