"""The workspace: what is pushed, and that a real run logs whatever a panel shows."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import start, wandb_records
from wandb_server import WandbServer

from resnet18.commands.dashboard import SECTIONS, STEP, serialised, workspace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # W&B's package uses the old pydantic
STORED = Path(__file__).with_name("dashboard.json")


def masked(made: Any) -> Any:
    """Without what is drawn at random."""
    return json.loads(re.sub(r'("(?:__id__|id)": )"\w+"', r'\1"…"', json.dumps(made)))


def test_the_workspace_is_the_stored_one() -> None:
    made = masked(serialised(workspace("digits", "someone", "resnet18")))
    assert made == json.loads(STORED.read_text())
    shown = [(one["name"], len(one["panels"])) for one in made["spec"]["section"]["panelBankConfig"]["sections"]]
    assert shown == [(name, len(panels)) for name, panels in SECTIONS.items()]


def test_a_run_logs_what_the_panels_show(trained: Path, tmp_path: Path, lightning) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run, symlinks=True)
    assert lightning("test", "--ckpt_path", run).status == 0
    logged: set[str] = set()
    scalars: set[str] = set()
    for part in run.glob("wandb/*run-*"):
        records = wandb_records(part)
        logged |= {
            name.removesuffix("._type")
            for one in records
            if one["type"] == "history"
            for name in one["history"]["item"]
        }
        for one in records:
            if one["type"] == "summary":
                updated = one["summary"].get("update", {})
                scalars |= {name for name, value in updated.items() if isinstance(value, int | float)}
    panels = [panel for panels in SECTIONS.values() for panel in panels]
    assert {metric for _, metric in panels} <= logged | scalars
    assert {metric for kind, metric in panels if kind == "bar"} <= scalars  # a bar is of the summary
    assert {"epoch", STEP} <= logged


def test_it_is_pushed_to_the_project(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[dict[str, Any]] = []

    def upsert(given: dict[str, Any]) -> dict[str, Any]:
        pushed.append(given)
        return {"view": {"id": "view", "name": given["name"]}, "inserted": True}

    monkeypatch.setattr(wandb_server, "on_upsert_view", upsert, raising=False)
    environment = {**wandb_server.environment, "WANDB_MODE": "offline"}  # which is for runs
    pushing = start(["dashboard", "--project", "digits"], tmp_path, **environment)
    out, err = pushing.communicate(timeout=60)
    assert pushing.returncode == 0, err
    assert out.startswith(wandb_server.url)
    assert (pushed[0]["entityName"], pushed[0]["projectName"]) == ("someone", "digits")
    assert masked(json.loads(pushed[0]["spec"])) == json.loads(STORED.read_text())["spec"]


def test_without_an_account_or_with_a_wrong_key_it_says_so_in_a_line(wandb_server: WandbServer, tmp_path: Path) -> None:
    where = {"WANDB_BASE_URL": wandb_server.url, "HOME": str(tmp_path)}  # a login would be stored there
    command = ["dashboard", "--project", "digits"]
    keyless, refused = start(command, tmp_path, **where), start(command, tmp_path, **where, WANDB_API_KEY="short")
    message = keyless.communicate(timeout=60)[1]
    assert message == "python -m resnet18 dashboard: W&B has no API key here: wandb login, or --dry_run\n"
    message = refused.communicate(timeout=60)[1]
    assert re.fullmatch("python -m resnet18 dashboard: W&B did not take it: .+\n", message)
    assert (keyless.returncode, refused.returncode) == (1, 1)


def test_a_dry_run_needs_no_account(lightning, monkeypatch: pytest.MonkeyPatch) -> None:
    done = lightning("dashboard", "--project", "digits", "--entity", "someone", "--dry_run")
    assert masked(json.loads(done.out)) == json.loads(STORED.read_text())
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    done = lightning("dashboard", "--dry_run")
    assert done.status == 1
    assert "pip install 'resnet18[dashboard]'" in done.err
    assert lightning("dashboard", "--projct", "digits").status == 2
