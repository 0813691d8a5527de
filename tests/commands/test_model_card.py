"""What a card says, and what the Hub reads of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import copied
from huggingface_hub import ModelCard

from resnet18 import load_run
from resnet18.commands.export_formats import Parity
from resnet18.commands.model_card import model_card, plain, summary

PARITY = Parity(64, 1.5e-6, 0.0, 63)


def card_of(run: Path, kind: str = "onnx") -> str:
    return model_card(load_run(run), kind, Path(f"model.{kind}"), PARITY, "64 validation images", "mit")


def test_the_hub_reads_the_score_of_a_tested_run(lightning, trained: Path, tmp_path: Path) -> None:
    copy = copied(trained, tmp_path)
    assert "model-index" not in card_of(copy)
    assert lightning("test", "--ckpt_path", copy).status == 0
    (tmp_path / "README.md").write_text(card_of(copy))
    card = ModelCard.load(tmp_path / "README.md")
    data: Any = card.data
    top1 = load_run(copy).evaluations[-1]["test/top1"]
    assert (data.library_name, data.license, data.tags[-1]) == ("onnx", "mit", "onnx")
    assert data.eval_results is not None
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", top1, "test")
    assert (result.dataset_name, result.task_type) == ("Digits", "image-classification")
    assert f"test/top1 {100 * top1:.2f} %, 95 % interval " in card.text
    assert "of 359 images, Wilson." in card.text
    assert "| PyTorch, from the same pixels, alone and in batches of 3 and 64 | 1.5e-06 | 64 |" in card.text


def test_a_score_of_other_weights_is_not_the_files(lightning, trained: Path, tmp_path: Path) -> None:
    copy = copied(trained, tmp_path)
    assert lightning("test", "--ckpt_path", copy).status == 0
    records = copy / "evaluations.jsonl"
    record = json.loads(records.read_text())
    for changed in ({"step": record["step"] - 20}, {"flip_tta": True}):
        records.write_text(json.dumps({**record, **changed}) + "\n")
        card = card_of(copy)
        assert "Of these weights none is known." in card
        assert "model-index" not in card


def test_without_a_test_the_score_is_that_of_validation(trained: Path) -> None:
    card = card_of(trained)
    assert "val/top1 " in card
    assert "so it is too good" in card
    assert f"The test images: <code>lightning test --ckpt_path {trained}</code>" in card
    for known in (
        "epochs: 3 of 3",
        "images: 1,295 train, 143 val",
        "seed: 1",
        summary(load_run(trained))["split_hash"],
    ):
        assert known in card


def test_a_checkpoint_on_its_own_says_what_it_knows(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.ckpt").write_bytes((trained / "checkpoints" / "best.ckpt").read_bytes())
    card = card_of(tmp_path / "alone.ckpt")
    assert "\n# alone\n" in card
    assert "- split: 997c10075dbe7a65" in card
    assert "this was a checkpoint on its own" in card
    assert "Of these weights none is known." in card


def test_the_command_is_without_the_directories_of_this_machine(trained: Path, tmp_path: Path) -> None:
    copy = copied(trained, tmp_path)
    origin = json.loads((copy / "provenance.json").read_text())
    origin["command"] = "/home/me/bin/lightning fit --config /home/me/a.yaml --data.root=/data/pets --x a/b"
    (copy / "provenance.json").write_text(json.dumps(origin))
    assert "- command: lightning fit --config a.yaml --data.root=pets --x a/b\n" in card_of(copy)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a_b*c", r"a\_b\*c"),
        ("<b>|`x`", r"\<b\>\|\`x\`"),
        ("two\nlines  and\x00", "two lines and\ufffd"),
        ("自転車", "自転車"),
    ],
)
def test_a_name_has_no_meaning_in_markdown(text: str, written: str) -> None:
    assert plain(text) == written
