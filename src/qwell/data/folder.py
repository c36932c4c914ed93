"""A path the user gave -> records: one file by its ending, or every file of a folder that is text.

What a folder holds beside that is left out and counted by reason; a file named alone is read or
refused.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qwell.data.parquet import Parquet, ReadGroup, held_groups
from qwell.data.records import Joined, JsonFile, JsonLines, Records, TextFiles
from qwell.errors import DataError, NotFoundError, UsageError
from qwell.text.plain import file_text

MAX_FILE = 1 << 20
"""Bytes of a code or text file found in a folder; larger ones are mostly generated."""
_PROSE = ".txt .md .rst .text .markdown .tex .adoc"
_CODE = """
.py .pyi .pyx .c .h .cc .cpp .cxx .hpp .cu .rs .go .java .kt .scala .js .mjs .jsx .ts .tsx .rb .php
.pl .lua .r .jl .hs .ml .ex .exs .erl .clj .lisp .swift .m .cs .fs .sh .bash .zsh .fish .ps1 .sql
.html .css .scss .vue .svelte .xml .yaml .yml .toml .ini .cfg .cmake .mk .proto .dart .zig .nim .f90
.v .sv .vhd .s .asm .vim .el .tcl .jinja .ipynb
"""
PROSE, CODE = frozenset(_PROSE.split()), frozenset(_CODE.split())
_RECORDS: dict[str, Callable[[Path, ReadGroup], Records]] = {
    ".jsonl": lambda path, _: JsonLines(path),
    ".ndjson": lambda path, _: JsonLines(path),
    ".json": lambda path, _: JsonFile(path),
    ".parquet": Parquet,
}
_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "venv", "site-packages"})


@dataclass(frozen=True)
class Opened:
    """`skipped`: how many files of a folder were left out, by reason."""

    records: Records
    skipped: Counter[str]


def open_records(
    path: str | Path, *, texts: bool = True, read_group: ReadGroup | None = None
) -> Opened:
    """The records of a file or a folder; `texts`: files of plain text and code count too;
    `read_group`: held_groups of those this path is shuffled with.

    Raises NotFoundError for no file, DataError for a file that cannot be read as what it is named,
    UsageError for a kind of file nobody knows.
    """
    path, read_group = Path(path), read_group or held_groups()
    if path.is_dir():
        return _open_folder(path, texts, read_group)
    if not path.exists():
        raise NotFoundError(f"{path}: there is no such file or folder: check the path")
    if reader := _RECORDS.get(path.suffix.lower()):
        return Opened(reader(path, read_group), Counter())
    if path.suffix.lower() in (".gz", ".zst", ".bz2", ".xz", ".zip"):
        raise UsageError(f"{path}: is compressed: unpack it, records are read at any place")
    if not texts:
        raise UsageError(f"{path}: conversations are read from {', '.join(_RECORDS)} files")
    return Opened(TextFiles([path]), Counter())


def _open_folder(folder: Path, texts: bool, read_group: ReadGroup) -> Opened:
    skipped: Counter[str] = Counter()
    parts: list[Records] = []
    plain: list[Path] = []
    for path in walk(folder, skipped):
        suffix = path.suffix.lower()
        if suffix == ".json" and not _is_list(path):
            skipped["JSON that is no list of records"] += 1
        elif suffix in _RECORDS:
            parts.append(_RECORDS[suffix](path, read_group))
        elif not texts or suffix not in PROSE | CODE:
            skipped[f"not read: {suffix or 'no ending'}"] += 1
        elif reason := why_not_text(path):
            skipped[reason] += 1
        else:
            plain.append(path)
    if plain:
        parts.append(TextFiles(plain))
    if not parts:
        raise DataError(f"{folder}: holds nothing that can be read ({_told(skipped)})")
    return Opened(parts[0] if len(parts) == 1 else Joined(parts), skipped)


def walk(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Files below a folder by name; hidden and generated ones are counted, not walked."""
    for place, folders, files in os.walk(folder):
        kept = [name for name in folders if name[0] != "." and name not in _SKIPPED_FOLDERS]
        skipped["hidden or generated folder"] += len(folders) - len(kept)
        folders[:] = sorted(kept)
        for name in sorted(files):
            if name[0] == ".":
                skipped["hidden file"] += 1
            else:
                yield Path(place, name)


def _is_list(path: Path) -> bool:
    """Settings and reports are objects; data is a list."""
    try:
        with path.open("rb") as file:
            return file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    except OSError:
        return False


def why_not_text(path: Path) -> str | None:
    """Why a file found in a folder is no document, or None if it is one."""
    try:
        if path.stat().st_size > MAX_FILE:
            return f"larger than {MAX_FILE >> 20} MiB"
        raw = path.read_bytes()
    except OSError:
        return "cannot be read"
    if b"\0" in raw:
        return "binary"
    try:
        return None if file_text(raw).strip() else "empty"
    except UnicodeDecodeError:
        return "not UTF-8"


def _told(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count) or "empty"
