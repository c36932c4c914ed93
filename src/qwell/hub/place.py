"""qwell's place on the disk: where it is, how much is in it, and who may write.

It knows neither models nor packs, see store.py and packs.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from qwell.errors import StorageError


def home() -> Path:
    """QWELL_HOME, or `qwell` in the user's cache folder. Absolute; need not exist."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("QWELL_HOME") or f"{cache}/qwell").expanduser().absolute()


def disk_bytes(folder: Path) -> int:
    """Bytes of all files under `folder`; 0 if there is none."""
    total = 0
    for place, _, names in os.walk(folder):  # passes over a folder that goes meanwhile
        for name in names:
            with suppress(OSError):  # and so do we over a file
                total += Path(place, name).stat().st_size
    return total


def check_space(needed_bytes: int) -> None:
    """Raises StorageError if the disk of the store has no room for so many more bytes."""
    existing = next(path for path in (home(), *home().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise StorageError(
            f"{needed_bytes / 1e9:.2f} GB are needed but {existing} has {free / 1e9:.2f} GB free: "
            "free some space, or point QWELL_HOME at a larger disk"
        )


@contextmanager
def exclusive(path: Path, on_wait: Callable[[], None], *folders: Path) -> Iterator[None]:
    """Within, no other process holds the lock file `path`. Calls `on_wait` once if another one
    does. Leaves behind no lock file, none of `folders` that stayed empty, and no empty home."""
    from filelock import FileLock, Timeout

    file_lock, timeout = FileLock(path), 0.0
    with writing(path):
        while not file_lock.is_locked:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with suppress(FileNotFoundError):  # who held it before us removed the empty folder
                    file_lock.acquire(timeout=timeout)
            except Timeout:
                on_wait()
                timeout = -1.0
    try:
        yield
    finally:
        # The lock file goes while it is held: whoever waits on it sees that it has no name any
        # more and starts anew. rmdir only takes a folder that is empty.
        rmdirs = (folder.rmdir for folder in (*folders, path.parent, home()))
        for forget in (path.unlink, *rmdirs):
            with suppress(OSError):
                forget()
        file_lock.release()


def writing(path: Path) -> AbstractContextManager[None]:
    """Turns the operating system's refusals into StorageError: one line that says what to do."""
    return StorageError.instead(
        path,
        full="free some space, or point QWELL_HOME at a larger disk; what is already here will "
        "be used",
        refused="point QWELL_HOME at a folder you can write",
    )
