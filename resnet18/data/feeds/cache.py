"""Image files decoded once and kept, and the list of those that can't be.

Every file is decoded in full before a run begins, so that none fails in the middle of one. What is found is kept in a
cache directory under a name that changes with the files' names, sizes and times: the second run starts at once, and a
file that was added, changed or taken away is noticed.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from resnet18.data.feeds.decode import UnreadableImage, centre_square, decode, scaled_side
from resnet18.data.feeds.files import Files, Geometry
from resnet18.errors import RunError

FORMAT = 1  # raised whenever decoding gives other pixels than before
CHUNK = 32  # files a task


class DecodedFiles(NamedTuple):
    """What came of decoding a list of files."""

    store: Tensor | None
    """uint8, N×S×S×C, mapped from the cache; zeros for what could not be read. None where only readability counted."""
    broken: dict[str, str]
    """The names of the files that can't be read, and why."""


def decode_or_load(files: Files, geometry: Geometry, directory: Path | None, *, keep: bool) -> DecodedFiles:
    """Decodes every file, or takes from the cache what an earlier run did.

    Args:
        files: What to decode.
        geometry: ``evaluation``, ``share`` and ``channels`` of it: the pixels kept are what evaluation sees.
        directory: Of the cache; by default the user's own, such as ``~/.cache/resnet18``.
        keep: Whether the pixels are wanted, and not only the names of what is broken.

    Raises:
        RunError: Where the cache can't be written.
    """
    directory = directory or user_cache_path("resnet18")
    kind = ["pixels", geometry.evaluation, geometry.share] if keep else ["names"]
    group = _digest([FORMAT, str(files.root.resolve()), *kind, geometry.channels])
    name = directory / f"{group}-{_digest(_listing(files))}"
    index, pixels = name.with_suffix(".json"), name.with_suffix(".pixels")
    shape = (len(files), geometry.evaluation, geometry.evaluation, geometry.channels)
    size = shape[0] * shape[1] * shape[2] * shape[3] if keep else 0
    if not index.exists() or (keep and (not pixels.exists() or pixels.stat().st_size != size)):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _decode_all(files, geometry, index, pixels if keep else None, shape)
        except OSError as error:
            raise RunError(f"data.cache_dir: {directory} can't be written: {error.strerror or error}") from None
        for stale in directory.glob(f"{group}-*"):
            if not stale.name.startswith(name.name):
                with suppress(OSError):  # gone by now, or, on Windows, in use by another run
                    stale.unlink()
    store = _mapped(pixels, shape, shared=False) if keep else None
    return DecodedFiles(store, json.loads(index.read_text()))


def _digest(parts: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _listing(files: Files) -> Iterable[str]:
    for name in files.names:
        try:
            status = (files.root / name).stat()
            yield f"{name}\t{status.st_size}\t{status.st_mtime_ns}"
        except OSError:
            yield f"{name}\tmissing"


def _mapped(path: Path, shape: tuple[int, ...], *, shared: bool) -> Tensor:
    size = torch.Size(shape).numel()
    if not size:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.from_file(str(path), shared=shared, size=size, dtype=torch.uint8).view(shape)


def _decode_all(
    files: Files, geometry: Geometry, index: Path, pixels: Path | None, shape: tuple[int, int, int, int]
) -> None:
    """Writes both files under other names first: what has the right name is whole."""
    with tempfile.TemporaryDirectory(dir=index.parent) as place:
        store = None
        if pixels is not None:
            with open(Path(place, pixels.name), "wb") as file:
                _reserve(file.fileno(), torch.Size(shape).numel())
            store = _mapped(Path(place, pixels.name), shape, shared=True)
        broken = _decode_into(store, files, geometry)
        del store  # Windows renames no file that is mapped
        Path(place, index.name).write_text(json.dumps(broken, indent=1))
        if pixels is not None:
            os.replace(Path(place, pixels.name), pixels)
        os.replace(Path(place, index.name), index)


def _reserve(descriptor: int, size: int) -> None:
    # On a full disk this fails with an error; writing to a mapped file would end the process with a bus error.
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def _decode_into(store: Tensor | None, files: Files, geometry: Geometry) -> dict[str, str]:
    broken: dict[str, str] = {}
    size, share, channels = geometry.evaluation, geometry.share, geometry.channels

    def decode_chunk(first: int) -> int:
        last = min(first + CHUNK, len(files))
        for number in range(first, last):
            try:
                image = decode(files.root / files.names[number], channels, scaled_side(size, share))
            except UnreadableImage as error:
                broken[files.names[number]] = str(error)
                continue
            if store is not None:
                store[number] = centre_square(image, size, share).permute(1, 2, 0)
        return last - first

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the images are shared out, not the pixels of one
    try:
        with ThreadPoolExecutor() as pool, _progress() as bar:
            task = bar.add_task(f"decoding {files.root}", total=len(files))
            for done in pool.map(decode_chunk, range(0, len(files), CHUNK)):
                bar.advance(task, done)
    finally:
        torch.set_num_threads(threads)
    return {name: broken[name] for name in sorted(broken)}


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
