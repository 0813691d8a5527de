"""Image files decoded once and kept, and the list of those that can't be decoded.

Every file is decoded in full before a run begins, so that none fails during it. The result is cached under a name made
of the files' names, sizes and times: the second run starts at once, and notices files added, changed or removed.
"""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import track
from torch import Tensor

from resnet18.data.feeds.decode import UnreadableImage, centre, decode, scaled_side
from resnet18.data.feeds.files import Files, Geometry
from resnet18.errors import RunError

FORMAT = 2  # raised whenever decoding gives other pixels than before, or they are kept in another way
CHUNK = 32  # files a task


class DecodedFiles(NamedTuple):
    """The result of decoding a list of N files."""

    store: Tensor | None  # uint8 N×S×S×C, zeros for broken files; None if not asked for
    broken: dict[str, str]  # the reason for each file that can't be read, by name


def decode_or_load(files: Files, geometry: Geometry, directory: Path | None, *, keep: bool) -> DecodedFiles:
    """Decodes every file to its evaluation pixels, or maps an earlier result; without ``keep`` drops the pixels."""
    directory = directory or user_cache_path("resnet18")
    kind = ["pixels", geometry.evaluation, geometry.share] if keep else ["names"]
    kind += (
        [geometry.interpolation] if keep and geometry.interpolation != "bilinear" else []
    )  # as before there were two
    group = _digest([FORMAT, str(files.root.resolve()), *kind, geometry.channels])
    path = directory / f"{group}-{_digest(_listing(files))}.pt"
    with suppress(OSError, RuntimeError):  # there is none, or it was cut short
        return _load(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=directory) as folder:  # a file with the final name is whole
            _save(_decode(files, geometry, keep), Path(folder, path.name))
            os.replace(Path(folder, path.name), path)
    except OSError as error:
        raise RunError(f"data.cache_dir: {directory} can't be written: {error.strerror or error}") from None
    for stale in directory.glob(f"{group}-*"):
        if stale != path:
            with suppress(OSError):  # gone by now, or, on Windows, in use by another run
                stale.unlink()
    return _load(path)


def _save(decoded: DecodedFiles, path: Path) -> None:
    try:
        torch.save(tuple(decoded), path)
    except RuntimeError as error:
        raise OSError(f"is the disk full? {str(error).partition(chr(10))[0]}") from None


def _load(path: Path) -> DecodedFiles:
    # Mapped and private: ranks share the memory, and a process's writes stay its own.
    return DecodedFiles(*torch.load(path, mmap=True, weights_only=True))


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


def _decode(files: Files, geometry: Geometry, keep: bool) -> DecodedFiles:
    size, share, channels = geometry.evaluation, geometry.share, geometry.channels
    store = torch.zeros(len(files), size, size, channels, dtype=torch.uint8) if keep else None
    broken: dict[str, str] = {}

    def decode_chunk(first: int) -> None:
        for number in range(first, min(first + CHUNK, len(files))):
            try:
                image = decode(files.root / files.names[number], channels, scaled_side(size, share))
                if store is not None:
                    square = centre(image, (size, size), share, geometry.interpolation)
                    store[number] = square.permute(1, 2, 0)  # C×S×S to S×S×C
            except UnreadableImage as error:
                broken[files.names[number]] = str(error)

    chunks, console = range(0, len(files), CHUNK), Console(stderr=True)
    bar = {"console": console, "transient": True, "disable": not console.is_terminal}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one thread an image
    try:
        with ThreadPoolExecutor() as pool:
            done = pool.map(decode_chunk, chunks)
            list(track(done, f"decoding {files.root}", total=len(chunks), **bar))
    finally:
        torch.set_num_threads(threads)
    return DecodedFiles(store, dict(sorted(broken.items())))
