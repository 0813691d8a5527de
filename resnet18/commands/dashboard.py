"""``lightning dashboard``: pushes a W&B workspace whose sections and panels stand in an order that was thought about.

Each push makes a view of its own: it changes neither runs nor views that are there.
"""

import json
import os
from collections.abc import Callable
from typing import Any

from resnet18.cli.plain import PlainParser
from resnet18.errors import RunError

STEP = "trainer/global_step"  # Lightning's name for the step
DRAWN = ("confusion", "per_class", "reliability", "mistakes")
SECTIONS: dict[str, tuple[tuple[str, str], ...]] = {  # kind of panel, and what it shows
    "Scores": (("epoch", "val/top1"), ("epoch", "val/loss"), ("bar", "best/top1")),
    "Training": (("step", "train/loss"), ("step", "lr"), ("step", "grad_norm"), ("step", "weight_norm")),
    "Speed": (("step", "images_per_s"), ("step", "step_ms"), ("step", "memory_gb")),
    "Best epoch, on the validation images": (
        *(("media", f"val/{name}") for name in DRAWN),
        ("bar", "val/calibration_error"),
    ),
    "Test": (("bar", "test/top1"), *(("media", f"test/{name}") for name in DRAWN), ("bar", "test/calibration_error")),
    "Images": (("media", "train/batch"),),
}
OPEN = ("Scores", "Training")


def workspace(project: str, entity: str, name: str) -> Any:
    """The workspace, built without an account; RunError without the package for it."""
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise RunError("this needs W&B's package for it: pip install 'resnet18[dashboard]'") from None

    kinds: dict[str, Callable[[str], Any]] = {
        "media": lambda metric: wr.MediaBrowser(title=metric, media_keys=[metric]),
        "bar": lambda metric: wr.BarPlot(title=metric, metrics=[metric]),
        "step": lambda metric: wr.LinePlot(title=metric, x=STEP, y=[metric]),
        "epoch": lambda metric: wr.LinePlot(title=metric, x="epoch", y=[metric]),
    }
    sections = [
        ws.Section(name=title, is_open=title in OPEN, panels=[kinds[kind](metric) for kind, metric in panels])
        for title, panels in SECTIONS.items()
    ]
    best_first = [ws.Ordering(ws.Summary("best/top1"), ascending=False)]
    runs = ws.RunsetSettings(order=best_first, pinned_columns=["summary:best/top1", "summary:test/top1"])
    settings = ws.WorkspaceSettings(x_axis="epoch")
    return ws.Workspace(
        entity=entity, project=project, name=name, sections=sections, settings=settings, runset_settings=runs
    )


def serialised(made: Any) -> dict[str, Any]:
    """What is sent to W&B."""
    view = made._to_model()
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"entity": view.entity, "project": view.project, "name": view.display_name, "spec": spec}


def run(command: str, arguments: list[str]) -> None:
    """What ``lightning dashboard ARGUMENTS`` does."""
    parser = PlainParser(command, description=__doc__)
    parser.add_argument("--project", default=os.environ.get("WANDB_PROJECT") or "resnet18", help="of W&B's")
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY"), help="user or team; else your default")
    parser.add_argument("--name", default="resnet18", help="of the view")
    parser.add_argument("--dry_run", action="store_true", help="print what would be pushed, and push nothing")
    given = parser.parse_args(arguments)
    made = workspace(given.project, given.entity or "", given.name)
    if given.dry_run:
        print(json.dumps(serialised(made), indent=1))
        return
    os.environ |= {"WANDB_MODE": "online", "WANDB_SILENT": "true"}  # offline is meant for runs
    import wandb

    try:
        if keyed := wandb.login(prompt=False, verify=True):
            made.entity = given.entity or wandb.Api(timeout=10).default_entity
            made.save()
    except Exception as error:  # of several libraries, and W&B's classes of it change
        raise RunError(f"W&B did not take it: {str(error).splitlines()[0]}") from None
    if not keyed:
        raise RunError("W&B has no API key here: wandb login, or --dry_run")
    print(made.url)
