"""What is said of an exported model: a summary inside the file, and a card beside it, for people and for the Hub.

The card has the form of https://huggingface.co/docs/hub/model-cards: YAML that huggingface_hub reads, then Markdown.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from resnet18.classifier import Classifier
from resnet18.commands.export_formats import Parity, is_torchvisions
from resnet18.data.feeds.decode import scaled_side
from resnet18.errors import written
from resnet18.optimization import head_name, head_of
from resnet18.report.markup import CONTROL
from resnet18.report.run_files import Run as Report
from resnet18.report.run_files import read_run
from resnet18.report.sections import Score, fact_rows, not_measured, score
from resnet18.runs import Run
from resnet18.storage.checkpoints import read_checkpoint
from resnet18.storage.provenance import versions
from resnet18.storage.records import BEST, PROVENANCE, read_json

EXAMPLES = {
    "onnx": """import json, numpy, onnxruntime
from PIL import Image, ImageOps
session = onnxruntime.InferenceSession({name!r})
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
images = {images}
logits = session.run(None, {{"images": images}})[0][0]
print({answer})""",
    "torch": """import json, numpy, torch
from PIL import Image, ImageOps
card = {{"card.json": ""}}
model = torch.export.load({name!r}, extra_files=card).module()
images = {images}
logits, classes = model(torch.from_numpy(images))[0], json.loads(card["card.json"])["classes"]
print({answer})""",
    "safetensors": """import torch
from safetensors.torch import load_model
from {module} import {network}
model = {network}({arguments}).eval(){head}
load_model(model, {name!r})
logits = model(inputs)  # inputs: float32 N×{shape}, made as is said below""",
}


def summary(run: Run) -> dict[str, Any]:
    """What a file says of itself, in the types of JSON."""
    checkpoint, place = read_checkpoint(run.checkpoint_path), run.directory.resolve() if run.directory else None
    origin = read_json(place / PROVENANCE) if place else {}
    git = origin.get("git") or {}
    hashes = [state["split_hash"] for state in checkpoint.values() if isinstance(state, dict) and "split_hash" in state]
    prepared = ("mean", "std", "input_size", "eval_share", "interpolation")
    return {
        "run": f"{place.parent.name}/{place.name}" if place else run.checkpoint_path.stem,
        "checkpoint": run.checkpoint_path.name,
        "step": checkpoint["global_step"],
        **{"classes": run.model.class_names, **{name: run.model.hparams[name] for name in prepared}},
        "split_hash": "".join(hashes[:1]),
        "git": git.get("sha", "") + (", with uncommitted changes" if git.get("status") else ""),
        "versions": origin.get("versions") or versions(),
    }


def model_card(run: Run, kind: str, path: Path, parity: Parity, on: str, license: str) -> str:
    """The card of an exported file, compared on the images ``on``; ``license`` is a name that the Hub knows."""
    known, model, report = summary(run), run.model, read_run(run.directory) if run.directory else None
    source, (channels, *size) = run.config["data"]["class_path"].rpartition(".")[2], known["input_size"]
    header: dict[str, Any] = {"library_name": "onnx" if kind == "onnx" else "pytorch", "license": license}
    header |= {"pipeline_tag": "image-classification", "tags": ["image-classification", "pytorch-lightning", kind]}
    found = _score(run, report, known) if report else None
    if found and found.metric.startswith("test/"):
        name = found.metric.removeprefix("test/")
        metric = {"type": "accuracy" if name == "top1" else name, "name": found.metric, "value": found.value}
        dataset = {"name": source, "type": source.lower(), "split": "test"}
        result = {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": [metric]}
        header["model-index"] = [{"name": known["run"], "results": [result]}]
    rows = {**(fact_rows(report) if report else {}), "git": known["git"], "split": known["split_hash"]}
    rows["versions"] = ", ".join(f"{name} {version}" for name, version in known["versions"].items())
    command = re.sub(r"(?<![^\s=])/\S*/", "", rows.get("command", ""))  # without places on this machine
    rows["command"] = command.replace("__main__.py", "lightning", 1)
    missing = not_measured(report) if report else ["How it was trained: this was a checkpoint on its own."]
    if found:
        missing.append(
            f"The score of this very file: that above is the run's, in {run.config['trainer']['precision']}."
        )
    missing.append("Speed, other processors, and other programs that open such a file.")
    order = {1: ", grey", 3: ", in the order red, green, blue"}.get(channels, "")
    taken = f"`images`: uint8, N×H×W×{channels}{order}, as they are decoded, of any size. The rest is in the file."
    one_class = type(model).decide is Classifier.decide  # else that knows what the outputs mean
    template = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    return template.format(
        **{name: known[name] for name in ("step", "mean", "std", "interpolation")},
        **{name: plain(known[name]) for name in ("run", "checkpoint")},
        **{"source": plain(source), "on": plain(on), "outputs": model.num_classes, "parity": parity},
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        example=_example(run, kind, path.name, one_class),
        taken="The file holds the weights alone." if kind == "safetensors" else taken,
        scaled="×".join(str(scaled_side(side, model.eval_share)) for side in size),
        middle="×".join(map(str, size)),
        softmax=", whose softmax is the probabilities" if one_class else "",
        names=", ".join(f"{number} {plain(name)}" for number, name in enumerate(known["classes"])),
        scores=_sentence(found) if found else "Of these weights none is known.",
        training="\n".join(f"- {name}: {plain(value)}" for name, value in rows.items() if value),
        missing="\n".join(f"- {line}" for line in missing),
    )


def plain(text: object) -> str:
    """Any text in one line of Markdown, without a meaning there."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&!$])", r"\\\1", " ".join(CONTROL.sub("\ufffd", str(text)).split()))


def _score(run: Run, report: Report, known: dict[str, Any]) -> Score | None:
    """The run's score as its report has it, if that is of the exported weights, used as the file uses them."""
    found = score(report)
    if found.metric.startswith("test/"):
        tests = [one for one in run.evaluations if one.get("step") == known["step"] and not one.get("flip_tta")]
        return found if any(one.get(found.metric) == found.value for one in tests) else None
    return found if found.value is not None and known["checkpoint"] == BEST else None


def _sentence(found: Score) -> str:
    interval = f", 95 % interval {found.interval} %" if found.interval else ""
    return f"{found.metric} {written(found.metric, found.value or 0)}{interval}; {plain('; '.join(found.notes))}."


def _example(run: Run, kind: str, name: str, one_class: bool) -> str:
    shape, backbone, made = run.model.input_size or (), run.model.backbone, run.model.hparams["backbone"]
    opened = 'numpy.array(ImageOps.exif_transpose(Image.open("photo.jpg")).convert'
    images = {1: f'{opened}("L"))[None, :, :, None]', 3: f'{opened}("RGB"))[None]'}
    network, arguments = made["class_path"], {**made.get("init_args", {}), **made.get("dict_kwargs", {})}
    if is_torchvisions(backbone):
        network, arguments = "torchvision.models.resnet18", {"num_classes": run.model.num_classes}
    resized = f"\nmodel.set_submodule({head_name(backbone)!r}, torch.nn.{head_of(backbone)})"
    return EXAMPLES[kind].format(
        **{"name": name, "module": network.rpartition(".")[0], "network": network.rpartition(".")[2]},
        images=images.get(shape[0], f'numpy.load("images.npy")  # uint8 N×H×W×{shape[0]}'),
        answer="classes[int(logits.argmax())]" if one_class else "dict(zip(classes, logits.tolist()))",
        arguments=", ".join(f"{key}={value!r}" for key, value in arguments.items()),
        head="" if "num_classes" in arguments else resized,
        shape="×".join(map(str, shape)),
    )
