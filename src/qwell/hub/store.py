"""qwell's own place on the disk: verified model files, their manifests, and who may write.

    $QWELL_HOME/models/<key>/manifest.json, <files>    a model, complete once the manifest stands
    $QWELL_HOME/models/<key>/*.part                    a pull under way or cut; the next one resumes
    $QWELL_HOME/packed/<key>/model.json                kernel-order caches, written by `native`

It knows no network. A file under its final name has been verified; a manifest names only such.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from qwell.errors import StorageError

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One verified file, its path relative to the model's folder."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was pulled, from where and when (ISO 8601, UTC)."""

    name: str
    repo: str
    tag: str | None
    source: str
    revision: str
    date: str
    files: tuple[StoredFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """One folder of the store; `manifest` is None while a pull is unfinished."""

    key: str
    manifest: Manifest | None
    disk_bytes: int


@dataclass(frozen=True, kw_only=True)
class Pack:
    """One folder of packed weights; `name` is that of the model when it was packed."""

    key: str
    name: str
    sources: tuple[Path, ...]
    disk_bytes: int

    @property
    def is_left(self) -> bool:
        """Whether a file it was made from is gone, so that nobody will ask for it again."""
        return any(map(_is_gone, self.sources))

    def is_called(self, model: str) -> bool:
        """By its name, its key, or the path of a source or of a folder they were in."""
        path = Path(model).expanduser().absolute()
        return model in (self.name, self.key) or any(
            path in (source, *source.parents[:1]) for source in self.sources
        )


def home() -> Path:
    """QWELL_HOME, or `qwell` in the user's cache folder. Absolute; need not exist."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("QWELL_HOME") or f"{cache}/qwell").expanduser().absolute()


def model_dir(key: str) -> Path:
    return home() / "models" / key


def packed_dir() -> Path:
    """Where `native` keeps packed weights: `<key>/model.json` with "source", the list of the
    absolute paths of the files they were made from."""
    return home() / "packed"


def read_manifest(key: str) -> Manifest | None:
    """The manifest of a model that stands whole: every file has its size. None otherwise."""
    try:
        raw = json.loads((model_dir(key) / MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest(**{**raw, "files": tuple(StoredFile(**f) for f in raw["files"])})
        sizes = [(model_dir(key) / file.path).stat().st_size for file in manifest.files]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return manifest if sizes == [file.size for file in manifest.files] else None


def write_manifest(key: str, manifest: Manifest) -> None:
    """Replaces the manifest at once; a crash leaves the old one or the new one."""
    final = model_dir(key) / MANIFEST
    temporary = final.with_suffix(".tmp")
    with writing(final), temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(final)


def remove_strange(key: str, manifest: Manifest) -> None:
    """Deletes what the manifest does not name: files of an earlier revision or of another source,
    which would be read beside it, and parts of them, which nothing would ever finish."""
    folder = model_dir(key)
    ours = {folder / name for name in (MANIFEST, *(file.path for file in manifest.files))}
    with writing(folder):
        for path in folder.rglob("*"):
            if path not in ours and not path.is_dir():
                path.unlink(missing_ok=True)


def models() -> tuple[StoredModel, ...]:
    """Everything in the store by name, unfinished pulls included."""
    with writing(home()), suppress(FileNotFoundError):
        folders = sorted(path for path in (home() / "models").iterdir() if path.is_dir())
        return tuple(
            StoredModel(key=f.name, manifest=read_manifest(f.name), disk_bytes=disk_bytes(f))
            for f in folders
        )
    return ()


def remove(key: str, on_wait: Callable[[], None] = lambda: None) -> int:
    """Deletes a model, finished or not, and what was packed from it. Returns the bytes freed."""
    folder = model_dir(key)
    with lock(key, on_wait), writing(folder):
        freed = disk_bytes(folder)
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            # The manifest goes first: a removal cut half way leaves no model that looks whole.
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)
    return freed + remove_packed([folder])


def packs() -> tuple[Pack, ...]:
    """All packed weights by key. What is broken is left out: `native` packs anew over it."""
    found = []
    for facts in sorted(packed_dir().glob("[!.]*/model.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):
            raw, key = json.loads(facts.read_text("utf-8")), facts.parent.name
            sources = tuple(Path(name) for name in raw["source"])
            size = disk_bytes(facts.parent)
            name = str(raw.get("model") or key)
            found.append(Pack(key=key, name=name, sources=sources, disk_bytes=size))
    return tuple(found)


def remove_packed(sources: Sequence[Path]) -> int:
    """Deletes packed caches made from any of these files or of files under these folders. Returns
    the bytes freed."""
    gone = {path.absolute() for path in sources} | {path.resolve() for path in sources}
    return _remove_packs(
        pack for pack in packs() if any(gone & {path, *path.parents} for path in pack.sources)
    )


def remove_left(model: str) -> int:
    """Deletes packed caches of `model` whose files are gone. Returns the bytes freed."""
    return _remove_packs(pack for pack in packs() if pack.is_left and pack.is_called(model))


def _remove_packs(found: Iterable[Pack]) -> int:
    freed = 0
    for pack in found:
        with writing(packed_dir() / pack.key):
            shutil.rmtree(packed_dir() / pack.key)
        freed += pack.disk_bytes
    return freed


def _is_gone(path: Path) -> bool:
    """Not so for one that may not be looked at."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


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
def lock(key: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Only one process at a time writes a model. Calls `on_wait` once if another one does.
    Leaves behind no lock file and no folder that stayed empty."""
    with exclusive(home() / "models" / f".{key}.lock", on_wait, model_dir(key)):
        yield


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
