"""Writing a run's files: whole or not at all, and refusals of the disk in words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwell.errors import StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into StorageError: one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(
                f"the disk is full (writing {path}): make room and run the same command again, it "
                "goes on from the last checkpoint"
            ) from error
        what = "is read-only or not yours" if error.errno in _FORBIDDEN else "cannot be written"
        raise StorageError(
            f"{path} {what} ({error.strerror or error}): give a folder you can write with --out"
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
            fsync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def fsync_folder(path: Path) -> None:
    """Makes renames in a folder last through a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
