"""CIFAR's archives, read, checked and trained on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, archive_of

from resnet18 import CIFAR10, CIFAR100, ImageTensors
from resnet18.errors import RunError


@pytest.mark.parametrize("source", [CIFAR10, CIFAR100])
def test_cifar_is_read_from_its_archive(source: type[CIFAR10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = archive_of(source, tmp_path, monkeypatch)
    data = source(root=str(tmp_path), val_share=0.5, batch_size=4)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert isinstance(data.train, ImageTensors)
    assert isinstance(data.val, ImageTensors)
    assert isinstance(data.test, ImageTensors)
    assert len(data.train) == len(data.val) == len(images["train"]) // 2
    assert torch.equal(data.train.store.permute(0, 3, 1, 2), torch.from_numpy(images["train"]))
    assert torch.equal(data.test.images.permute(0, 3, 1, 2), torch.from_numpy(images["test"]))
    assert data.test.labels.tolist() == list(range(len(data.class_names)))
    assert data.num_classes == len(set(data.class_names)) == int(source.__name__.removeprefix("CIFAR"))
    batch, _ = next(iter(data.train_dataloader()))
    assert batch.shape == (4, 3, 32, 32)


@pytest.mark.parametrize("source", [CIFAR10, CIFAR100])
def test_without_a_network_the_message_says_which_file_to_put_where(
    source: type[CIFAR10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    data = source(root=str(tmp_path / "data"))
    with pytest.raises(RunError) as error:
        data.prepare_data()
    name, place = source.__name__, tmp_path / "data"
    archive, message = source.archive, str(error.value)
    assert message.startswith(f"data.root: {name} is not in {place} and could not be downloaded (")
    assert f"Put {archive.filename} there, from {archive.url}, with the MD5 checksum {archive.tgz_md5}" in str(
        error.value
    )


def test_a_damaged_archive_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive_of(CIFAR10, tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"cut short")
    with pytest.raises(RunError, match=f"data.root: CIFAR10 is not in {tmp_path}, or not whole"):
        CIFAR10(root=str(tmp_path)).load("train")


def test_cifar10_trains_by_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lightning) -> None:
    archive_of(CIFAR10, tmp_path / "data", monkeypatch)
    done = lightning(
        *("fit", "--config", ROOT / "configs/cifar10.yaml", "--model.backbone.width", 8, "--data.batch_size", 30),
        *("--trainer.max_epochs", 1, "--trainer.precision", "32-true"),
    )
    assert done.status == 0, done.err
    assert "90 images to train, 10 to validate, 10 classes" in done.out
    assert "resident feed, 0.3 MB" in done.out
    assert lightning("test", "--ckpt_path", "runs/cifar10/latest").status == 0
