"""Writing a run's files: whole or not at all, and refusals of the disk in words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwell.checkpoint.appear import sync
from qwell.errors import StorageError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into StorageError: one line that says what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError.of(
            error,
            path,
            full="make room and run the same command again, it goes on from the last checkpoint",
            refused="give a folder you can write with --out",
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Replaces a file at once: a crash leaves the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
