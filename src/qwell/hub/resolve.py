"""What the user calls a model becomes files on this disk.

MODEL is an alias (`qwen2.5-coder:0.5b`), a Hugging Face id (`Org/Name`, `Org/Name:q8_0`,
`Org/Name:file.gguf`), a folder, or a .gguf file, any part of a split set included. Looked for in
that sense: a path that exists, qwell's own store, the Hugging Face cache (used in place), the
network. It knows nothing of what is inside the files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qwell.errors import NotFoundError, UsageError
from qwell.hub import store
from qwell.hub.catalogue import Entry, data, lookup, plain_name
from qwell.hub.choose import choose, parts_of, whole

if TYPE_CHECKING:
    from qwell.hub.download import Reporter


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """Files that are here. `paths`: the .gguf parts in order, or the one folder."""

    name: str
    paths: tuple[Path, ...]
    kind: Literal["gguf", "folder"]
    entry: Entry | None = None
    """None for a path the user gave."""


def resolve(
    model: str, *, source: str | None = None, reporter: Reporter | None = None
) -> ResolvedModel:
    """The files of `model`, pulled first if they are not here (see pull.pull for `source`).

    Raises NotFoundError for what does not exist, UsageError for what can be no model,
    DownloadError and StorageError from the pull.
    """
    if local := local_model(model):
        return local
    entry = lookup(model)
    if found := find(entry):
        return found
    from qwell.hub.pull import pull  # only a fresh machine pays for the network's modules

    pull(entry, source=source, reporter=reporter)
    return stored(entry)


def find(entry: Entry) -> ResolvedModel | None:
    """The entry's files if they stand in the store or the Hugging Face cache. No network."""
    if store.read_manifest(entry.key):
        return stored(entry)
    paths = _in_hf_cache(entry)
    return (
        ResolvedModel(name=entry.name, paths=paths, kind=entry.kind, entry=entry) if paths else None
    )


def stored(entry: Entry) -> ResolvedModel:
    """The entry's files in the store, which must hold it."""
    manifest = store.read_manifest(entry.key)
    if manifest is None:
        raise NotFoundError(f"{entry.name} is not here: run 'qwell pull {entry.name}'")
    folder = store.model_dir(entry.key)
    files = tuple(folder / file.path for file in manifest.files)
    paths = files if entry.kind == "gguf" else (folder,)
    return ResolvedModel(name=entry.name, paths=paths, kind=entry.kind, entry=entry)


def local_model(model: str) -> ResolvedModel | None:
    """The model at a path, if `model` is one. Raises NotFoundError for a path that leads nowhere
    or to no whole model."""
    if not model:
        raise UsageError("no model is named: give an alias such as qwen2.5-coder:0.5b, or a path")
    path = Path(model).expanduser()
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise UsageError(f"{model[:80]!r} can be no model: {error.strerror}") from error
    if is_file and path.suffix.lower() == ".gguf":
        return _gguf_set(model, path.absolute())
    if is_file:
        raise UsageError(f"{path} is no .gguf file; for safetensors give the folder that holds it")
    if is_folder:
        return _folder(model, path.absolute())
    if _looks_like_path(model):
        raise NotFoundError(f"there is no file or folder {path}: check the path")
    return None


def _looks_like_path(model: str) -> bool:
    """Whether it can only be meant as a path: an id has one slash and no leading dot."""
    outside = plain_name(model).partition(":")[0]
    return bool(
        re.match(r"[./~\\]|[A-Za-z]:\\", model)
        or outside.count("/") > 1
        or outside.lower().endswith((".gguf", "/", os.sep))
    )


def _gguf_set(model: str, path: Path) -> ResolvedModel:
    here = {sibling.name for sibling in path.parent.iterdir()}
    parts = whole(parts_of(path.name), here, str(path.parent))
    return ResolvedModel(name=model, paths=tuple(path.parent / part for part in parts), kind="gguf")


def _folder(model: str, path: Path) -> ResolvedModel:
    names = {child.name for child in path.iterdir() if child.is_file()}
    ggufs = {parts_of(name)[0] for name in names if name.lower().endswith(".gguf")}
    if len(ggufs) == 1 and "config.json" not in names:
        return _gguf_set(model, path / ggufs.pop())
    has_weights = any(name.endswith(".safetensors") for name in names)  # config.json: the run's own
    if not has_weights and (path / "model" / "config.json").is_file():
        raise NotFoundError(f"{path} holds a run of training: give {path / 'model'}")
    choose(None, names, str(path))
    return ResolvedModel(name=model, paths=(path,), kind="folder")


def _in_hf_cache(entry: Entry) -> tuple[Path, ...] | None:
    """The entry's files in the user's Hugging Face cache, if all are there."""
    from huggingface_hub import constants

    repo = Path(constants.HF_HUB_CACHE) / f"models--{entry.repo.replace('/', '--')}"
    try:
        commit = (repo / "refs" / data()["sources"]["huggingface"]["revision"]).read_text("utf-8")
        snapshot = repo / "snapshots" / commit.strip()
        names = {p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()}
        chosen = [f.path for f in entry.files] or choose(entry.tag, names, str(snapshot))
    except (OSError, ValueError, NotFoundError):
        return None  # nothing there, or not all of it: the store's own copy is pulled
    if entry.kind == "folder":
        return (snapshot,) if _is_usable(names) else None
    paths = tuple(snapshot / name for name in chosen)
    return paths if names.issuperset(chosen) and _as_known(entry, paths) else None


def _is_usable(names: Collection[str]) -> bool:
    """Whether a cached folder has a tokenizer, and the index if the weights are in shards: the
    cache holds whatever files some program once asked for."""
    is_sharded = any(len(parts_of(name)) > 1 for name in names)
    return ("tokenizer.json" in names or {"vocab.json", "merges.txt"}.issubset(names)) and (
        not is_sharded or "model.safetensors.index.json" in names
    )


def _as_known(entry: Entry, paths: tuple[Path, ...]) -> bool:
    """Whether the cached files are those of the catalogue. The cache names a blob by the SHA-256
    the hub gave (or, without symbolic links, like the file), so nothing is read here."""
    return all(
        path.stat().st_size == file.size and path.resolve().name in {file.sha256, path.name}
        for path, file in zip(paths, entry.files)
    )
