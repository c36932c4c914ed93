"""Packed weights: copies of a model's weights in kernel order, written by `engine` and `native`.

    $QWELL_HOME/packed/<key>/model.json    names the files it was made from

A pack can be made again: it goes with its model, and a broken one is passed over.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qwell.hub.place import disk_bytes, home, writing


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


def packed_dir() -> Path:
    """Where `native` keeps packed weights: `<key>/model.json` with "source", the list of the
    absolute paths of the files they were made from."""
    return home() / "packed"


def every_pack() -> tuple[Pack, ...]:
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
        pack for pack in every_pack() if any(gone & {path, *path.parents} for path in pack.sources)
    )


def remove_left(model: str) -> int:
    """Deletes packed caches of `model` whose files are gone. Returns the bytes freed."""
    return _remove_packs(pack for pack in every_pack() if pack.is_left and pack.is_called(model))


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
