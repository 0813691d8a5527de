import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture, picture_folder
from PIL import Image

from resnet18.data.feeds import cache
from resnet18.data.feeds.cache import decode_or_load
from resnet18.data.feeds.decode import centre, decode
from resnet18.data.feeds.files import Files, Geometry
from resnet18.errors import RunError

GEOMETRY = Geometry(16, 16)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    place = picture_folder(tmp_path / "train", each=5)
    names = sorted(str(path.relative_to(place)) for path in place.rglob("*.jpg"))
    return Files(place, names, torch.arange(len(names)) // 5)


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded from here on."""
    asked: list[Path] = []
    lock = threading.Lock()

    def counting(path: Path, *arguments: Any) -> torch.Tensor:
        with lock:
            asked.append(path)
        return decode(path, *arguments)

    monkeypatch.setattr(cache, "decode", counting)
    return asked


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "share"), [(16, 1.0), (24, 0.875)])
def test_the_pixels_are_those_that_evaluation_sees(
    files: Files, tmp_path: Path, channels: int, size: int, share: float
) -> None:
    cubic = Geometry(size, size, share, channels, interpolation="bicubic")
    other = decode_or_load(files, cubic, tmp_path / "cache", keep=True)
    decoded = decode_or_load(files, Geometry(size, size, share, channels), tmp_path / "cache", keep=True)
    assert decoded.broken == {}
    assert decoded.store is not None
    assert other.store is not None
    assert not torch.equal(other.store, decoded.store)
    assert (decoded.store.shape, decoded.store.dtype) == ((10, size, size, channels), torch.uint8)
    for name, pixels in zip(files.names, decoded.store, strict=True):
        assert torch.equal(pixels.permute(2, 0, 1), centre(decode(files.root / name, channels), (size, size), share))


def test_the_second_time_nothing_is_decoded(files: Files, tmp_path: Path, undecoded: list[Path]) -> None:
    first = decode_or_load(files, GEOMETRY, tmp_path / "cache", keep=True)
    assert len(undecoded) == 10
    second = decode_or_load(files, GEOMETRY, tmp_path / "cache", keep=True)
    assert len(undecoded) == 10
    assert first.store is not None
    assert second.store is not None
    assert torch.equal(first.store, second.store)


@pytest.mark.parametrize("change", ["content", "time", "added", "taken away"])
def test_a_change_is_noticed_and_the_old_pixels_go(
    files: Files, tmp_path: Path, undecoded: list[Path], change: str
) -> None:
    place = tmp_path / "cache"
    decode_or_load(files, GEOMETRY, place, keep=True)
    path, names = files.root / files.names[3], list(files.names)
    if change == "content":
        picture(99, 50).save(path)
    elif change == "time":
        os.utime(path, ns=(1, 1))
    elif change == "added":
        picture(99).save(files.root / "cat" / "new.jpg")
        names.append("cat/new.jpg")
    else:
        names.pop()
    undecoded.clear()
    changed = Files(files.root, names, torch.zeros(len(names)).long())
    decoded = decode_or_load(changed, GEOMETRY, place, keep=True)
    assert len(undecoded) == len(names)
    assert decoded.store is not None
    for name, pixels in zip(names, decoded.store, strict=True):
        assert torch.equal(pixels.permute(2, 0, 1), centre(decode(files.root / name), (16, 16), 1.0))
    assert len(list(place.iterdir())) == 1


def test_other_sizes_and_other_folders_are_kept_side_by_side(
    files: Files, tmp_path: Path, undecoded: list[Path]
) -> None:
    other = Files(picture_folder(tmp_path / "val", each=1), ["cat/0.jpg", "dog/0.jpg"], torch.tensor([0, 1]))
    for _ in range(2):
        decode_or_load(files, GEOMETRY, tmp_path / "cache", keep=True)
        decode_or_load(files, Geometry(20, 20), tmp_path / "cache", keep=True)
        decode_or_load(files, Geometry(16, 16, channels=1), tmp_path / "cache", keep=True)
        decode_or_load(other, GEOMETRY, tmp_path / "cache", keep=True)
        assert len(undecoded) == 3 * 10 + 2


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_broken_is_remembered_with_its_reason(
    files: Files, tmp_path: Path, undecoded: list[Path], keep: bool
) -> None:
    (files.root / "cat/1.jpg").write_bytes(b"")
    (files.root / "dog/4.jpg").write_text("no")
    expected = {"cat/1.jpg": "the file is empty", "dog/4.jpg": "not an image of a known kind"}
    for _ in range(2):
        decoded = decode_or_load(files, GEOMETRY, tmp_path / "cache", keep=keep)
        assert decoded.broken == expected
        assert len(undecoded) == 10
        assert (decoded.store is not None) == keep
    picture(1).save(files.root / "cat/1.jpg")
    assert list(decode_or_load(files, GEOMETRY, tmp_path / "cache", keep=keep).broken) == ["dog/4.jpg"]


def test_a_cache_that_was_cut_short_is_made_again(files: Files, tmp_path: Path, undecoded: list[Path]) -> None:
    decode_or_load(files, GEOMETRY, tmp_path / "cache", keep=True)
    (path,) = (tmp_path / "cache").iterdir()
    os.truncate(path, 100)
    decoded = decode_or_load(files, GEOMETRY, tmp_path / "cache", keep=True)
    assert len(undecoded) == 20
    assert decoded.store is not None
    assert decoded.store[-1].any()


def test_writing_to_the_pixels_does_not_reach_the_cache(files: Files, tmp_path: Path) -> None:
    first = decode_or_load(files, GEOMETRY, tmp_path / "cache", keep=True).store
    assert first is not None
    before = first.clone()
    first.zero_()
    second = decode_or_load(files, GEOMETRY, tmp_path / "cache", keep=True).store
    assert second is not None
    assert torch.equal(second, before)


def test_an_interrupted_write_is_not_read(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(value: object, path: Path) -> None:
        path.write_bytes(b"the first bytes")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode_or_load(files, GEOMETRY, tmp_path / "cache", keep=True)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="needs a limit to the size of files, for a full disk")
def test_a_full_disk_is_reported_in_a_line_and_leaves_nothing(files: Files, tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(RunError, match=r"data.cache_dir: .*cache can't be written: is the disk full\?"):
            decode_or_load(files, GEOMETRY, tmp_path / "cache", keep=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="names that are not valid text exist on POSIX only")
def test_a_broken_file_whose_name_is_no_valid_text_is_remembered(files: Files, tmp_path: Path) -> None:
    name = os.fsdecode(b"cat/\xff.jpg")
    (files.root / name).write_bytes(b"")
    odd = Files(files.root, [*files.names, name], torch.zeros(11).long())
    for _ in range(2):
        assert decode_or_load(odd, GEOMETRY, tmp_path / "cache", keep=True).broken == {name: "the file is empty"}


def test_a_cache_directory_that_can_not_be_made_is_named(files: Files, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"data.cache_dir: .*file/cache can't be written: Not a directory"):
        decode_or_load(files, GEOMETRY, tmp_path / "file" / "cache", keep=True)


def test_no_files_are_no_pixels(tmp_path: Path) -> None:
    empty = Files(tmp_path, [], torch.zeros(0).long())
    decoded = decode_or_load(empty, GEOMETRY, tmp_path / "cache", keep=True)
    assert decoded.store is not None
    assert decoded.store.shape == (0, 16, 16, 3)


def test_a_strip_that_would_fill_the_memory_is_broken(tmp_path: Path) -> None:
    Image.new("L", (200_000, 1)).save(tmp_path / "strip.png")
    files = Files(tmp_path, ["strip.png"], torch.zeros(1, dtype=torch.int64))
    decoded = decode_or_load(files, Geometry(32, 32), tmp_path / "cache", keep=True)
    assert decoded.broken == {
        "strip.png": "200,000 × 1 pixels: covering 32 × 32 it is over the limit of 100 megapixels"
    }
