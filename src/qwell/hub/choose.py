"""Which files of a repository or folder make up one model. Names in, names out; reads nothing.

A GGUF model is one file or a whole set `-00001-of-0000N.gguf`; a folder model is config,
tokenizer and safetensors. Pickles and code are never chosen.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from qwell.errors import NotFoundError

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})(\.gguf|\.safetensors)$", re.IGNORECASE)
MAX_PARTS = 1000
"""Of a set: a listing must not make us spell out a hundred thousand names for each of its own."""
_FOLDER_FILES = ("*.json", "*.jinja", "merges.txt", "LICENSE*", "*.safetensors")


def parts_of(name: str) -> tuple[str, ...]:
    """The names of all parts of the set that `name` belongs to, in order; itself if not split."""
    match = _SPLIT.search(name)
    if not match or not int(match[1]) <= int(match[2]) <= MAX_PARTS or match[2] == "00000":
        return (name,)
    stem, count = name[: match.start()], int(match[2])
    return tuple(f"{stem}-{i:05}-of-{match[2]}{match[3]}" for i in range(1, count + 1))


def whole(parts: tuple[str, ...], present: Collection[str], where: str) -> tuple[str, ...]:
    """`parts`, all of them present. Raises NotFoundError naming the first missing one."""
    missing = [part for part in parts if part not in present]
    if missing:
        raise NotFoundError(
            f"{where}: {len(missing)} of {len(parts)} parts are missing, first {missing[0]}; "
            "all parts must lie side by side"
        )
    return parts


def choose(tag: str | None, names: Collection[str], where: str) -> tuple[str, ...]:
    """The files of the model `tag` among `names` (None: the safetensors folder), GGUF parts in
    order. Raises NotFoundError, saying what `where` holds instead."""
    return _choose_folder(names, where) if tag is None else _choose_gguf(tag, names, where)


def _choose_gguf(tag: str, names: Collection[str], where: str) -> tuple[str, ...]:
    ggufs = sorted(name for name in names if name.lower().endswith(".gguf"))
    if tag.lower().endswith(".gguf"):
        fits = [name for name in ggufs if name == tag]
    else:
        ending = re.compile(rf"(^|[-._]){re.escape(tag)}$", re.IGNORECASE)
        fits = [name for name in ggufs if ending.search(_stem(name))]
    sets = {parts_of(name) for name in fits}
    if len(sets) == 1:
        return whole(sets.pop(), ggufs, where)
    found = ", ".join(_first_parts(fits or ggufs)) or "no .gguf file"
    how = "more than one file fits" if sets else "no file fits"
    raise NotFoundError(f"{where}: {how} {tag!r}; name one with Org/Name:FILE. It has {found}")


def _choose_folder(names: Collection[str], where: str) -> tuple[str, ...]:
    top = [name for name in names if "/" not in name]
    chosen = {n for n in top if any(fnmatchcase(n, pattern) for pattern in _FOLDER_FILES)}
    weights = {name for name in chosen if name.endswith(".safetensors")}
    # Some repositories carry the same weights twice, under another maker's name.
    standard = {name for name in weights if name.startswith("model")}
    chosen -= weights - standard if standard else set()
    if not weights or "config.json" not in chosen:
        ggufs = _first_parts([name for name in names if name.lower().endswith(".gguf")])
        hint = f"; for GGUF add :FILE, one of {', '.join(ggufs)}" if ggufs else ""
        raise NotFoundError(f"{where} holds no config.json with .safetensors weights{hint}")
    for name in weights & chosen:
        whole(parts_of(name), chosen, where)
    return tuple(sorted(chosen))


def _stem(name: str) -> str:
    """The file's name without its ending and without the part's number."""
    return PurePosixPath(_SPLIT.sub(".gguf", name)).stem


def _first_parts(names: Collection[str]) -> list[str]:
    """One name per model, at most ten: an error is one line."""
    firsts = sorted(name for name in names if parts_of(name)[0] == name)
    return firsts if len(firsts) <= 10 else [*firsts[:10], f"and {len(firsts) - 10} more"]
