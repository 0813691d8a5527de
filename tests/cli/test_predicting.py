"""``lightning predict``: its formats, the next classes, embeddings, standard output, ranks, and what it refuses."""

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import CONFIG, picture_folder, start
from pyarrow import parquet

from resnet18 import load_run
from resnet18.data.feeds.decode import centre, decode

NAMES = ["cat/0.jpg", "cat/1.jpg", "cat/2.jpg", "dog/0.jpg", "dog/1.jpg", "dog/2.jpg", "void.png"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six images and one that can't be read."""
    picture_folder(tmp_path / "pictures", each=3)
    (tmp_path / "pictures" / "void.png").touch()
    return tmp_path / "pictures"


def test_every_format_says_the_same(trained: Path, pictures: Path, lightning) -> None:
    predict = ("predict", "--ckpt_path", trained, "--images", "pictures", "--topk", "10", "--embeddings", "true")
    for suffix in ("csv", "jsonl", "parquet"):
        done = lightning(*predict, "--output", f"out.{suffix}", "--flip_tta", suffix == "csv")
        assert done.status == 1, done.err
        assert done.out.endswith(f"6 predictions in out.{suffix}\n")
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    table = parquet.read_table("out.parquet").to_pylist()
    for found in (rows, lines, table):
        assert [row["image"] for row in found] == NAMES
        assert [bool(row["error"]) for row in found] == [False] * 6 + [True]
        assert not found.pop()["class"]

    model = load_run(trained).model
    assert model.input_size is not None
    size = model.input_size[1:]
    images = torch.stack([centre(decode(pictures / name, channels=1), size) for name in NAMES[:-1]])  # 6×1×8×8
    with torch.no_grad():
        shares, labels = (part.tolist() for part in model(images).softmax(1).sort(1, descending=True))
        vectors = model.backbone.embed(model.normalize(images))  # type: ignore[operator]
    ends = ["", *(f"_{place}" for place in range(2, 11))]
    for number, (line, row) in enumerate(zip(lines, table, strict=True)):
        names = [model.class_names[label] for label in labels[number]]
        assert names == [name for name, _ in line["top"]] == [row[f"class{end}"] for end in ends]
        assert shares[number] == pytest.approx([share for _, share in line["top"]], rel=1e-5)
        assert shares[number] == pytest.approx([row[f"probability{end}"] for end in ends], rel=1e-6)
    assert rows[0]["probability"] != f"{shares[0][0]:.6f}"  # averaged with its mirror image's
    texts = [[float(number) for number in row["embedding"].split()] for row in rows]  # the image's own
    for found in (texts, *([row["embedding"] for row in one] for one in (lines, table))):
        torch.testing.assert_close(torch.tensor(found), vectors, rtol=1e-5, atol=1e-6)


def test_standard_output_holds_the_table_and_nothing_else(trained: Path, pictures: Path, lightning) -> None:
    done = lightning(
        "predict",
        "--ckpt_path",
        trained,
        "--images",
        "pictures/c*",
        "--images",
        "pictures/void.png",
        "--output",
        "-",
        "--trainer.precision",
        "64-true",
    )
    assert done.status == 1
    rows = list(csv.DictReader(done.out.splitlines()))
    assert [row["image"] for row in rows] == [f"pictures/{name}" for name in (*NAMES[:3], "void.png")]
    for line in (
        "trainer.precision: 32-true → 64-true",
        "converted to grey",
        "\n3 predictions\n",
        "1 of 4 images can't be read",
    ):
        assert line in done.err
    assert sys.stdout is not sys.stderr
    assert [path.name for path in pictures.parent.iterdir()] == ["pictures"]


def test_options_come_from_a_file_too(trained: Path, pictures: Path, lightning) -> None:
    Path("mine.yaml").write_text("images: [pictures/dog, pictures/cat/0.jpg]\noutput: mine.jsonl\ntopk: 2\n")
    assert lightning("predict", "--config", "mine.yaml", "--ckpt_path", trained).status == 0
    lines = [json.loads(line) for line in Path("mine.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == [
        "pictures/dog/0.jpg",
        "pictures/dog/1.jpg",
        "pictures/dog/2.jpg",
        "pictures/cat/0.jpg",
    ]
    assert {len(line["top"]) for line in lines} == {2}
    assert (
        lightning("predict", "--config", "mine.yaml", "--ckpt_path", trained, "--images=pictures/dog/1.jpg").status == 0
    )
    assert len(Path("mine.jsonl").read_text().splitlines()) == 1


def test_the_runs_own_images_have_no_error_column(trained: Path, lightning) -> None:
    done = lightning("predict", "--ckpt_path", trained, "--output", "out.parquet", "--topk", 2)
    assert (done.status, done.out) == (0, "359 predictions in out.parquet\n")
    table = parquet.read_table("out.parquet")
    assert table.column_names == ["image", "class", "probability", "class_2", "probability_2"]
    assert len(table) == 359


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--output", "out.xlsx"), 2, "output: out.xlsx should end in .csv, .jsonl, .parquet, or be - for"),
        (("--output", "nowhere/out.csv"), 1, "output: there is no directory nowhere"),
        (("--output", "."), 2, "output: . should end in .csv"),
        (("--images", "pictures", "--ckpt_path", "nowhere"), 1, "there is no checkpoint or run nowhere"),
        (("--topk", "0"), 2, "topk: must be at least 1, not 0"),
        (("--topk", "11"), 2, "topk: expected a whole number from 1 to 10, the number of classes, not 11"),
        (("--topk", "1.5"), 2, "topk: expected a whole number, not '1.5'"),
        (("--embeddings", "many"), 2, "embeddings: expected true or false, not 'many'"),
        (("--images",), 2, "argument --images: expected one argument"),
        (("--images", "pictures", "pitcures"), 1, "images: there is no pitcures; did you mean pictures?"),
        (("--images", "pictures", "--config", CONFIG), 2, "images: data is given too, as Digits; leave one of"),
        (("--images", "pictures", "--data.eval_batch", "2"), 2, "Unlabelled takes no eval_batch; did you mean"),
    ],
)
def test_a_mistake_costs_a_line_and_nothing_is_written(
    options: tuple[object, ...], status: int, message: str, trained: Path, pictures: Path, lightning
) -> None:
    done = lightning("predict", "--ckpt_path", trained, *options)
    assert done.status == status
    assert message in done.err
    assert done.err.count("\n") == 1
    assert [path.name for path in pictures.parent.iterdir()] == ["pictures"]


def test_the_output_is_checked_before_the_checkpoint_is_read(lightning) -> None:
    assert "output: out.txt should end" in lightning("predict", "--ckpt_path", "nowhere", "--output", "out.txt").err
    with pytest.raises(SystemExit):  # what is only shown needs no place
        lightning("predict", "--output", "nowhere/out.csv", "--print_config=skip_null")


KILL = """
import os, signal
from lightning.pytorch import Callback

class Kill(Callback):
    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)
"""


def test_sigterm_ends_it_and_leaves_the_earlier_table(trained: Path, pictures: Path, lightning) -> None:
    Path("mycallback.py").write_text(KILL)
    Path("predictions.csv").write_text("earlier")
    small = ("--images", "pictures", "--data.eval_batch_size", 1, "--trainer.callbacks", "mycallback.Kill")
    done = lightning("predict", "--ckpt_path", trained, *small)
    assert done.status == 143
    assert "stopped by SIGTERM; nothing was saved" in done.err
    assert Path("predictions.csv").read_text() == "earlier"
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_two_ranks_write_the_table_of_one(trained: Path, pictures: Path, lightning, tmp_path: Path) -> None:
    options = ("predict", "--ckpt_path", trained, "--images", "pictures", "--topk", "2", "--data.eval_batch_size", "2")
    pair = start(
        (*options, "--trainer.devices", "2", "--trainer.accelerator", "cpu", "--output", "two.jsonl"), tmp_path
    )
    assert lightning(*options, "--output", "one.jsonl").status == 1
    out, err = pair.communicate(timeout=120)
    assert pair.returncode == 1, err
    assert out.endswith("6 predictions in two.jsonl\n")
    assert err.count("1 of 7 images can't be read: void.png (the file is empty)") == 1
    assert Path("two.jsonl").read_text() == Path("one.jsonl").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.jsonl", "pictures", "two.jsonl"]
