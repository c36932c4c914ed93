"""Writing a run's files: whole or not at all, and refusals of the disk in words."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from qwell.checkpoint.appear import sync
from qwell.errors import StorageError


def writing(path: Path) -> AbstractContextManager[None]:
    """Turns the operating system's refusals into StorageError: one line that says what to do."""
    return StorageError.instead(
        path,
        full="make room and run the same command again, it goes on from the last checkpoint",
        refused="give a folder you can write with --out",
    )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within, no other run works in `folder`, which is made. The kernel lets go of the lock when
    the process ends, however it ends. Raises StorageError if another run is there."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o666)
    try:
        with suppress(OSError):  # BlockingIOError apart: a file system that knows no locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    f"another run is at work in {folder}: wait for its end, or give another --out"
                ) from None
        yield
    finally:
        os.close(handle)


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
