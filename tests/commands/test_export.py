"""``lightning export`` through the program: files that others open, their cards' own lines run, and what is refused."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy
import onnxruntime
import pytest
import torch
from conftest import ROOT, copied, picture, picture_folder
from run_makers import SEVERAL_LABELS
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.models import resnet18

from resnet18 import load_run
from resnet18.__main__ import main
from resnet18.commands.export import SUFFIXES
from resnet18.data.feeds.decode import centre, decode

HOSTILE = "d_o*g|`<b>"
NETS = """
import torch
from torch import nn

class Branching(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        logits = self.fc(x.flatten(1))
        if logits.sum() > 0:
            logits = logits + 1
        return logits

class Noisy(Branching):
    def forward(self, x):
        return self.fc((x + torch.rand_like(x)).flatten(1))
"""
SHORT = ("--model.optimizer", "SGD", "--model.optimizer.lr", "0.01", "--trainer.max_epochs", "1")
SHORT += ("--trainer.logger", "false", "--run_dir", "run")


def export(*arguments: object) -> list[str]:
    """The lines that an export prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, patch.object(sys, "argv", ["lightning"]):
        assert main(["export", *map(str, arguments)]) == 0
    return out.getvalue().splitlines()


@pytest.fixture(scope="module")
def made(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The digits' network in each format, each in a directory of its own with its card."""
    place = tmp_path_factory.mktemp("exported")
    files = {kind: place / kind / f"model{suffix}" for kind, suffix in SUFFIXES.items()}
    for path in files.values():
        path.parent.mkdir()
        export("--ckpt_path", trained, "--output", path)
    return files


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the run of a ResNet-18 on 40 pictures of 30×40 to 30×42, and those in `pictures`."""
    place = tmp_path_factory.mktemp("pets")
    picture_folder(place / "pictures" / "train", ("cat", HOSTILE), each=20)
    options = (
        "--data.image_size",
        "24",
        "--data.eval_share",
        "0.875",
        "--data.batch_size",
        "12",
        "--data.num_workers",
        "0",
    )
    options += ("--data.cache_dir", str(place / "cache"), "--model.backbone", "resnet18.ResNet")
    before = Path.cwd()
    os.chdir(place)
    try:
        with patch.object(sys, "argv", ["lightning"]):
            assert main(["fit", "--data", "ImageFolder", "--data.root", "pictures", *options, *SHORT]) == 0
    finally:
        os.chdir(before)
    return place


def card_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.md")


def lines_of(card: Path) -> str:
    """The Python in a card."""
    found = re.search(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_lines_of_the_card_need_onnxruntime_alone(made: dict[str, Path], trained: Path, tmp_path: Path) -> None:
    path = made["onnx"]
    for name in ("model.onnx", "model.onnx.md"):
        (tmp_path / name).write_bytes(path.with_name(name).read_bytes())
    picture(7, 61, 45).save(tmp_path / "photo.jpg", "PNG")  # the same pixels for each reader
    code = lines_of(tmp_path / "model.onnx.md") + "import sys\nassert not {'torch', 'resnet18'} & set(sys.modules)\n"
    assert len(code.splitlines()) == 9
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    run = load_run(trained)
    with torch.no_grad():
        logits = run.model(centre(decode(tmp_path / "photo.jpg", 1), (8, 8))[None])
    assert done.stdout.strip() == run.model.class_names[int(logits.argmax())]
    assert done.stderr == ""


def test_the_lines_of_the_other_cards_run(
    made: dict[str, Path], trained: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    picture(7, 61, 45).save(tmp_path / "photo.jpg", "PNG")
    run = load_run(trained)
    seen = centre(decode(tmp_path / "photo.jpg", 1), (8, 8))[None]
    with torch.no_grad():
        expected = run.model(seen)
    monkeypatch.chdir(tmp_path)
    for kind in ("torch", "safetensors"):
        (tmp_path / made[kind].name).write_bytes(made[kind].read_bytes())
        names = {"inputs": run.model.normalize(seen)}
        exec(lines_of(card_of(made[kind])), names)
        assert torch.equal(names["logits"].reshape(1, -1), expected)
    assert capsys.readouterr().out.strip() == run.model.class_names[int(expected.argmax())]


def test_a_file_takes_raw_pixels_of_any_size_and_number(made: dict[str, Path], trained: Path) -> None:
    model = load_run(trained).model
    session = onnxruntime.InferenceSession(made["onnx"])
    program = torch.export.load(made["torch"]).module()
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("images", "tensor(uint8)", ["batch", "height", "width", 1])
    assert (given.name, given.type, given.shape) == ("logits", "tensor(float)", ["batch", 10])
    for count, height, width in ((1, 8, 8), (5, 8, 8), (1, 1, 1), (2, 13, 31), (1, 480, 351)):
        images = numpy.stack([numpy.array(picture(n, width, height).convert("L")) for n in range(count)])[..., None]
        seen = [centre(torch.from_numpy(image).permute(2, 0, 1), (8, 8)) for image in images]
        with torch.no_grad():
            expected = model(torch.stack(seen))
        assert numpy.abs(session.run(None, {"images": images})[0] - expected.numpy()).max() < (
            1e-4 if width < 40 else 0.1
        )
        assert torch.allclose(program(torch.from_numpy(images)), expected, atol=1e-5 if width < 40 else 0.1)


def test_each_file_says_what_it_is(made: dict[str, Path], trained: Path) -> None:
    inside = {"card.json": ""}
    torch.export.load(made["torch"], extra_files=inside)
    told = json.loads(inside["card.json"])
    origin = json.loads((trained / "provenance.json").read_text())
    assert told["run"] == f"digits/{trained.name}"
    assert (told["classes"], told["mean"], told["std"]) == ([str(n) for n in range(10)], [0.305], [0.376])
    assert (told["input_size"], told["eval_share"], told["interpolation"]) == ([1, 8, 8], 1.0, "bilinear")
    assert (told["split_hash"], told["versions"]) == (origin["split_hash"], origin["versions"])
    assert told["git"].startswith(origin["git"]["sha"] if origin["git"] else "")
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}
    found = onnxruntime.InferenceSession(made["onnx"]).get_modelmeta().custom_metadata_map
    assert {name: found[name] for name in texts} == texts
    with safe_open(made["safetensors"], "pt") as file:
        assert file.metadata() == texts
        assert set(file.keys()) == set(load_run(trained).model.backbone.state_dict())


def test_no_file_names_a_place_on_this_machine(made: dict[str, Path]) -> None:
    with zipfile.ZipFile(made["torch"]) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    contents += [made["onnx"].read_bytes(), *(card_of(path).read_bytes() for path in made.values())]
    for content in contents:
        assert str(ROOT).encode() not in content
        assert sys.prefix.encode() not in content


def test_it_says_what_was_compared_and_nothing_else(lightning, trained: Path, tmp_path: Path) -> None:
    copy = copied(trained, tmp_path)
    done = lightning("export", "--ckpt_path", "runs/digits/latest", "--format", "safetensors")
    assert (done.status, done.err) == (0, "")
    path = Path("runs", "digits", copy.name, "model.safetensors")
    assert done.out.splitlines() == [
        f"{path}  {path.stat().st_size / 1e6:.1f} MB, opened again and compared on 64 validation images",
        "as in PyTorch   logits within 0, 64 of 64 classes equal",
        "as in the run   logits within 0, 64 of 64 classes equal",
        f"card            {card_of(path)}",
        f"use             safetensors.torch.load_model(network, '{path}')",
    ]
    assert not list(copy.glob(".model*"))
    done = lightning("export", "--ckpt_path", copy / "checkpoints" / "last.ckpt", "--output", "last.pt2")
    assert (done.status, done.err) == (0, "")
    assert "last.ckpt, after 60 optimizer steps on Digits, " in Path("last.pt2.md").read_text()


def test_a_card_that_was_edited_is_kept(lightning, trained: Path) -> None:
    arguments = ("export", "--ckpt_path", trained, "--output", "model.safetensors")
    for _ in range(2):  # what it has written itself is replaced
        assert lightning(*arguments).status == 0
    card, file = Path("model.safetensors.md"), Path("model.safetensors")
    whole, written = card.read_text(), file.stat().st_mtime_ns
    for edited in (whole.replace("## Scores", "## My scores"), whole + "A line more.\n", ""):
        card.write_text(edited)
        done = lightning(*arguments)
        problem = "--output: model.safetensors.md is not as this command wrote it; --overwrite replaces it all the same"
        assert (done.status, done.err.strip()) == (2, f"lightning export: {problem}")
        assert (card.read_text(), file.stat().st_mtime_ns) == (edited, written)
    card.unlink()
    assert "--output: model.safetensors is not as" in lightning(*arguments).err
    assert lightning(*arguments, "--overwrite").status == 0
    assert card.read_text() == whole


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (["--format", "onnx"], 2, "the following arguments are required: --ckpt_path"),
        (["--ckpt_path", "RUN", "--formt", "onnx"], 2, "--formt: there is no such option; did you mean --format?"),
        (["--ckpt_path", "RUN", "--format", "onx"], 2, "--format: invalid choice: 'onx'"),
        (["--ckpt_path", "RUN", "--output", "model.bin"], 2, "model.bin should end in .onnx, .pt2, .safetensors"),
        (["--ckpt_path", "RUN", "--format", "torch", "--output", "a.onnx"], 2, "--output: a.onnx should end in .pt2"),
        (["--ckpt_path", "RUN", "--format", "torch", "--opset", "18"], 2, "--opset: torch has none"),
        (["--ckpt_path", "RUN", "--opset", "0"], 2, "--opset: must be a whole number from 1, not 0"),
        (["--ckpt_path", "runs/digits/latst"], 1, "there is no checkpoint or run runs/digits/latst"),
        (["--ckpt_path", "RUN", "--output", "no/a.onnx"], 1, "no/a.onnx can't be written: No such file or directory"),
        (
            ["--ckpt_path", "RUN", "--output", "a.pt2", "--images", "no"],
            1,
            "images: there is no no; --images DIR names",
        ),
        (["--ckpt_path", "RUN", "--output", "a.pt2", "--images", "broken"], 1, "broken/1.png: not an image of a known"),
        (["--ckpt_path", "RUN", "--output", "a.onnx", "--opset", "9"], 2, "--opset: the exporter can't give 9, but 18"),
    ],
)
def test_a_mistake_costs_a_line(lightning, trained: Path, arguments: list[str], status: int, problem: str) -> None:
    picture_folder(Path("broken"), (".",), each=1, suffix=".png")
    Path("broken", "1.png").write_bytes(b"?")
    done = lightning("export", *(str(trained) if argument == "RUN" else argument for argument in arguments))
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith("lightning export: ")
    assert problem in done.err
    assert done.err.count("\n") == 1
    assert {path.name for path in Path.cwd().iterdir()} == {"broken"}


def test_a_missing_package_is_named(lightning, trained: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    done = lightning("export", "--ckpt_path", trained, "--output", "model.onnx")
    assert done.err == "lightning export: onnx needs onnxscript: pip install 'resnet18[export]'\n"
    assert (done.status, list(Path.cwd().iterdir())) == (1, [])


@pytest.mark.parametrize(
    ("network", "problem"),
    [
        ("Branching", r"this network can't be exported as torch: Could not guard on data-dependent .*mynet.py:12\)"),
        (
            "Noisy",
            r"the torch file does not compute what PyTorch does: logits are [\d.e-]+ apart, and \d+ of 131 images",
        ),
    ],
)
def test_a_network_that_can_not_be_exported_leaves_no_file(lightning, network: str, problem: str) -> None:
    Path("mynet.py").write_text(NETS)
    assert lightning("fit", "--model.backbone", f"mynet.{network}", "--data", "Digits", *SHORT).status == 0
    before = sorted(Path("run").iterdir())
    done = lightning("export", "--ckpt_path", "run", "--format", "torch")
    assert (done.status, done.out) == (1, "")
    assert re.fullmatch(f"lightning export: {problem}.*\n", done.err)
    assert sorted(Path("run").iterdir()) == before


def test_photographs_go_in_as_they_are(lightning, pets: Path, monkeypatch) -> None:
    monkeypatch.chdir(pets)
    done = lightning("export", "--ckpt_path", "run", "--opset", "21")
    assert (done.status, done.err) == (0, "")
    assert "compared on only 4 validation images\n" in done.out
    session = onnxruntime.InferenceSession("run/model.onnx")
    model = load_run("run").model
    for path in sorted(Path("pictures").rglob("*.jpg"))[::9]:
        pixels = decode(path)
        with torch.no_grad():
            expected = model(centre(pixels, (24, 24), 0.875)[None])
        found = session.run(None, {"images": pixels.permute(1, 2, 0)[None].numpy()})[0]
        assert numpy.abs(found - expected.numpy()).max() < 1e-4
    card = Path("run/model.onnx.md").read_text()
    assert r"0 cat, 1 d\_o\*g\|\`\<b\>" in card
    assert "covers 27×27 pixels (bilinear, antialiased" in card


def test_torchvisions_own_network_takes_the_weights(lightning, pets: Path, monkeypatch) -> None:
    monkeypatch.chdir(pets)
    assert lightning("export", "--ckpt_path", "run", "--output", "weights.safetensors").status == 0
    network = resnet18(num_classes=2).eval()
    network.load_state_dict(load_file("weights.safetensors"))
    model = load_run("run").model
    inputs = model.normalize(torch.zeros(1, 3, 24, 24, dtype=torch.uint8)).contiguous()
    names = {"inputs": inputs}
    exec(lines_of(Path("weights.safetensors.md")), names)
    assert "from torchvision.models import resnet18\n" in Path("weights.safetensors.md").read_text()
    with torch.no_grad():
        assert torch.allclose(network(inputs), model.backbone(inputs), atol=1e-6)
        assert torch.equal(names["logits"], network(inputs))


def test_without_its_data_a_run_is_compared_on_other_images(lightning, pets: Path, tmp_path: Path) -> None:
    run = SimpleNamespace(path=pets / "run" / "checkpoints" / "last.ckpt")  # whose data.root is relative
    done = lightning("export", "--ckpt_path", run.path, "--output", "model.pt2")
    assert done.status == 1
    assert "data.root: there is no directory" in done.err
    assert done.err.endswith("; --images DIR names others to compare on\n")
    assert done.err.count("\n") == 1
    done = lightning("export", "--ckpt_path", run.path, "--output", "model.pt2", "--images", pets / "pictures")
    assert (done.status, done.err) == (0, "")
    assert "compared on 40 images of pictures" in done.out
    assert "| on 40 images of pictures |" in Path("model.pt2.md").read_text()


def test_a_network_of_torchvision_with_several_labels_an_image(lightning) -> None:
    decide = "\n    def decide(self, logits):\n        return logits > 0, logits.sigmoid()\n"
    Path("mytask.py").write_text(SEVERAL_LABELS + decide)
    recipe = (
        "--model",
        "mytask.Tagger",
        "--model.loss",
        "binary_cross_entropy",
        "--data",
        "mytask.Tags",
        "--data.rgb",
        "true",
    )
    recipe += ("--model.backbone", "torchvision.models.mobilenet_v3_small", "--best.monitor", "val/accuracy")
    done = lightning("fit", *recipe, *SHORT)
    assert done.status == 0, done.err
    done = lightning("export", "--ckpt_path", "run")
    assert (done.status, done.err) == (0, "")
    assert "64 of 64 classes equal" in done.out
    card = Path("run/model.onnx.md").read_text()
    assert "val/accuracy " in card
    assert "top1" not in card
    assert "softmax" not in card
    assert "print(dict(zip(classes, logits.tolist())))" in card
