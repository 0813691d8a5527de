"""A run's W&B files: a directory in ``wandb/`` for each start, a part of one W&B run.

W&B has no reader for them in Python.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 2**15, 7  # bytes


def parts(directory: Path) -> list[Path]:
    """The directories of a run's parts, oldest first."""
    found = (directory / "wandb").glob("*run-*_*-*")
    return sorted(
        (part for part in found if part.name.startswith(("run-", "offline-run-"))),
        key=lambda part: part.name.partition("run-")[2],  # when it began
    )


def link_parts(directory: Path) -> None:
    """Links a run's parts into ``runs/<experiment>/wandb``, where ``wandb leet`` shows the runs side by side."""
    place = directory.parent / "wandb"
    if "runs" not in place.absolute().parts:
        return
    with contextlib.suppress(OSError, NotImplementedError):  # Windows allows links to administrators only
        place.mkdir(exist_ok=True)
        for link in place.iterdir():
            if not link.exists():  # of a run that was removed
                link.unlink(missing_ok=True)
        for part in parts(directory):
            link = place / part.name  # `wandb leet` takes no other name
            if not link.is_symlink():
                link.symlink_to(Path("..", *part.parts[-3:]), target_is_directory=True)


def records(part: Path) -> Iterator[Any]:
    """The whole records of a part; ValueError where it is damaged, OSError where it can't be read."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    for file in part.glob("*.wandb"):
        yield from map(Record.FromString, _split(file)[0])


def mend(part: Path) -> None:
    """Takes away what a kill has cut off, for `wandb sync` uploads neither that nor any later part."""
    for file in part.glob("*.wandb"):
        whole, end = _split(file)
        if not whole:
            part.rename(part.with_name(f"empty-{part.name}"))  # under which `wandb sync` does not look
        elif end < file.stat().st_size:
            os.truncate(file, end)


def _split(file: Path) -> tuple[list[bytes], int]:
    """The whole records of a W&B file, and where the last of them ends."""
    # LevelDB's log: chunks in blocks of 32 kB, each after 4 bytes of checksum, 2 of length and 1 of kind (1 for a whole
    # record, 2, 3 and 4 for the first, a middle and the last part of one).
    content = file.read_bytes()
    place = end = HEADER
    record, whole = b"", []
    while True:
        if (left := BLOCK - place % BLOCK) < HEADER:  # padding
            place += left
        if place + HEADER > len(content):
            break
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if not content.startswith(b":W&B") or not 1 <= kind <= 4:
            raise ValueError(f"{file} is damaged")
        place += HEADER + length
        if place > len(content):
            break
        record += content[place - length : place]
        if kind in (1, 4):
            whole.append(record)
            record, end = b"", place
    return whole, end
