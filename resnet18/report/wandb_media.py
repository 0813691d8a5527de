"""An evaluation and the first batch as W&B shows them: read from a run's directory, not measured again.

HTML and lists of pictures, which W&B keeps in the run's files. It would keep tables, and charts made of tables, outside
an offline run, where they are lost when the run is moved.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from resnet18.report.figures import confusion, per_class, reliability
from resnet18.report.markup import standalone
from resnet18.storage.records import PICTURES, evaluation_path, read_json

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

SHOWN = 128  # pixels


def log_evaluation(logger: "WandbLogger", directory: Path, part: str, section: str) -> None:
    """Logs what ``evaluation-PART.json`` holds, in a section of W&B's page.

    Raises:
        RunError: Where the file is broken.
    """
    import wandb

    found = read_json(evaluation_path(directory, part))
    media: dict[str, Any] = {}
    if "confusion" in found:
        for name, draw in (("confusion", confusion), ("per_class", per_class), ("reliability", reliability)):
            page = standalone(draw(found), name)
            media[f"{section}/{name}"] = wandb.Html(page, inject=False)  # else it loads a style
        media[f"{section}/calibration_error"] = found["calibration"]["error"]
        media[f"{section}/mistakes"] = [
            wandb.Image(_enlarged(directory / one["picture"]), caption=_caption(one, found["class_names"]))
            for one in found["mistakes"]
            if (directory / str(one.get("picture"))).is_file()
        ]
    if section == "val":  # at the end of the training
        media["train/batch"] = [
            wandb.Image(str(batch), caption="the first training batch, as the network saw it")
            for batch in directory.glob(f"{PICTURES}/batch.png")
        ]
    if media := {name: value for name, value in media.items() if value != []}:
        at = {"epoch": found["epoch"]} if "epoch" in found else {}
        logger.log_metrics({**at, **media}, found["step"] - 1 if "step" in found else None)


def _enlarged(path: Path) -> Image.Image:
    """A small picture with each pixel as a square, so that one of 8×8 can be seen."""
    with Image.open(path) as picture:
        factor = max(1, SHOWN // max(picture.size))
        return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)


def _caption(mistake: dict[str, Any], names: list[str]) -> str:
    true, predicted = names[mistake["true"]], names[mistake["predicted"]]
    return f"{true} → {predicted}, {100 * mistake['probability']:.1f} % ({mistake['image']})"
