"""The models qwell holds: verified files and their manifests.

    $QWELL_HOME/models/<key>/manifest.json, <files>    a model, complete once the manifest stands
    $QWELL_HOME/models/<key>/*.part                    a pull under way or cut; the next one resumes

It knows no network. A file under its final name has been verified; a manifest names only such.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from qwell.hub.packs import remove_packed
from qwell.hub.place import disk_bytes, exclusive, home, writing

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


def models_dir() -> Path:
    return home() / "models"


def model_dir(key: str) -> Path:
    return models_dir() / key


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
        folders = sorted(path for path in models_dir().iterdir() if path.is_dir())
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


@contextmanager
def lock(key: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Only one process at a time writes a model. Calls `on_wait` once if another one does.
    Leaves behind no lock file and no folder that stayed empty."""
    with exclusive(models_dir() / f".{key}.lock", on_wait, model_dir(key)):
        yield
