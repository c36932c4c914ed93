"""Files and folders that appear whole or not at all.

They are written beside their place under a name nobody reads, synced to the disk, then renamed: a
crash leaves what was there before. What a killed process left behind goes at the next attempt.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from qwell.errors import StorageError, UsageError


def check_space(path: Path, needed_bytes: int) -> None:
    """Raises StorageError if the disk `path` will stand on has no room for so many bytes."""
    absolute = path.absolute()
    existing = next(parent for parent in absolute.parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise StorageError(
            f"{needed_bytes / 1e9:.2f} GB are needed but {existing} has {free / 1e9:.2f} GB free: "
            "free some space, or write to a larger disk"
        )


@contextmanager
def appearing_file(path: Path, *, force: bool) -> Iterator[Path]:
    """Where to write: the file takes the name `path` when the block ends well.

    Raises UsageError if something is there and not `force`, or is a folder; StorageError."""
    _check_file(path, force)
    with _beside(path) as unfinished:
        yield unfinished
        sync(unfinished)
        _check_file(path, force)  # another process may have been quicker
        unfinished.replace(path)
        sync(path.parent)


@contextmanager
def appearing_folder(path: Path, *, force: bool, mark: str) -> Iterator[Path]:
    """A new folder to fill: it takes the name `path` when the block ends well.

    force replaces a folder that holds a file `mark` (what a folder of this kind has) and nothing
    but files named like those qwell writes, so that no other folder is ever deleted; an empty one
    needs no force."""
    with writing(path):
        _put_back(path)
    check_folder(path, force, mark)
    with _beside(path) as unfinished:
        unfinished.mkdir()
        yield unfinished
        for file in unfinished.iterdir():
            sync(file)
        sync(unfinished)
        check_folder(path, force, mark)  # another process may have been quicker
        _swap(unfinished, path)


def _check_file(path: Path, force: bool) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give the name of a file")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already: give another name, or --force to replace it")


def check_folder(path: Path, force: bool, mark: str) -> None:
    """Raises UsageError where appearing_folder would, for who computes long before it writes."""
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir() or path.is_symlink():
        raise UsageError(f"{path} is no folder: give another name")
    if not any(path.iterdir()):
        return
    if not force:
        raise UsageError(f"{path} is not empty: give another name, or --force to replace it")
    strange = [child.name for child in path.iterdir() if not _is_ours(child)]
    if strange or not (path / mark).is_file():
        what = min(strange, default=f"no {mark}")
        raise UsageError(
            f"{path} holds more than a model ({what}): --force replaces only what qwell wrote"
        )


def _is_ours(path: Path) -> bool:
    """Whether it may be a file of a folder qwell writes."""
    return path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in _OURS)


_OURS = ("*.json", "*.jinja", "*.safetensors", "merges.txt")


def _swap(unfinished: Path, path: Path) -> None:
    """`unfinished` takes the place of `path`; what stood there goes last (see _put_back)."""
    old = unfinished.with_suffix(".old")
    if path.exists():
        path.rename(old)
    unfinished.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A free name beside `path`; what stands there at the end is removed."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    with writing(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        try:
            yield unfinished
        finally:
            _remove(unfinished)


def _put_back(path: Path) -> None:
    """A process that was killed inside _swap left what stood there under another name."""
    for left in _leftovers(path, "old"):
        if not path.exists():
            left.rename(path)


def _remove_leftovers(path: Path) -> None:
    for left in [*_leftovers(path, "unfinished"), *_leftovers(path, "old")]:
        _remove(left)


def _leftovers(path: Path, ending: str) -> list[Path]:
    """What processes that no longer live left beside this name."""
    found = path.absolute().parent.glob(f".{glob.escape(path.name)}.*.{ending}")
    numbers = ((left, left.name.split(".")[-2]) for left in found)
    return [left for left, n in numbers if n.isdecimal() and not _is_alive(int(n))]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def sync(path: Path) -> None:
    """What is written of a file or folder is on the disk: a power cut leaves no empty name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def writing(path: Path) -> AbstractContextManager[None]:
    """Turns the operating system's refusals into StorageError."""
    return StorageError.instead(
        path,
        full="free some space, or write to a larger disk; nothing was changed",
        refused="write somewhere else; nothing was changed",
    )
