"""Images that nobody has checked: each as in validation, and a reason for those that can't be read."""

from pathlib import Path

import pytest
import torch
from conftest import picture, picture_folder
from PIL import Image
from torch import Tensor

from resnet18.data.feeds import unchecked
from resnet18.data.feeds.decode import centre, decode, pixels_of
from resnet18.data.feeds.files import Files, Names
from resnet18.data.feeds.order import Shard
from resnet18.data.feeds.unchecked import UncheckedLoader

SIZE = (3, 12, 20)  # not square


@pytest.fixture
def files(tmp_path: Path) -> Files:
    picture_folder(tmp_path, each=3)
    (tmp_path / "cat" / "1.jpg").write_bytes(b"")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    names = Names(sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg")))
    return Files(tmp_path, names, torch.zeros(len(names)))


def all_of(loader: UncheckedLoader) -> tuple[Tensor, list[int]]:
    images, labels, positions = (torch.cat(part) for part in zip(*loader, strict=True))
    assert not labels.any()
    return images, positions.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_cut_as_in_validation_and_the_unreadable_have_a_reason(files: Files, workers: int) -> None:
    loader = UncheckedLoader(files, 3, SIZE, 0.8, "bicubic", num_workers=workers)
    images, positions = all_of(loader)
    loader.close()
    assert len(loader) == 3
    assert positions == [0, 1, 2, 3, 4, 5, 6]
    assert images.shape == (7, *SIZE)
    assert loader.unreadable == {1: "the file is empty", 6: "a link that points nowhere"}
    for position, image in enumerate(images):
        if position in loader.unreadable:
            assert not image.any()
        else:
            expected = centre(decode(files.root / files.names[position]), SIZE[1:], 0.8, "bicubic")
            assert torch.equal(image, expected)


def test_ranks_share_the_images_and_the_reasons(files: Files) -> None:
    loaders = [UncheckedLoader(files, 2, SIZE, shard=Shard(rank=rank, world_size=2)) for rank in range(2)]
    assert [all_of(loader)[1] for loader in loaders] == [[0, 2, 4, 6], [1, 3, 5]]
    assert [list(loader.unreadable) for loader in loaders] == [[6], [1]]


def test_any_size_is_read_but_for_strips_that_would_fill_the_memory(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "dot.png")
    Image.new("L", (10_000, 10_000), 77).save(tmp_path / "large.png")
    Image.new("L", (100_000, 1)).save(tmp_path / "strip.png")
    names = Names(["dot.png", "large.png", "strip.png"])
    loader = UncheckedLoader(Files(tmp_path, names, torch.zeros(3)), 3, (3, 64, 32))
    images, _ = all_of(loader)
    assert images[0, :, 0, 0].tolist() == [9, 8, 7]
    assert (images[1] == 77).all()
    assert "100,000 × 1 pixels: covering 32 × 64 it is over the limit" in loader.unreadable.pop(2)
    assert loader.unreadable == {}


def test_what_no_decoder_foresees_costs_its_own_image_alone(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path, *arguments: object) -> Tensor:
        if path.name == "0.jpg":
            raise KeyError("a tag\nof two lines")
        return pixels_of(picture(1))

    monkeypatch.setattr(unchecked, "decode", failing)
    loader = UncheckedLoader(files, 7, SIZE)
    all_of(loader)
    assert loader.unreadable == dict.fromkeys((0, 3), r"KeyError: 'a tag\nof two lines'")
