"""Files -> records, any of which can be read alone.

What is held in memory is where each record begins (8 bytes a line), never the records, so a corpus
may be larger than the machine. A record knows its file and line. Parquet, which cannot give one row
alone, is read in parquet.py.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwell.checkpoint.mapped import unique_keys
from qwell.errors import DataError, NotFoundError
from qwell.text.plain import file_text

PIECE = 1 << 16
"""Bytes of a plain text file that are one record at most; longer files are cut at a line end, so
that a corpus in one file can be shuffled."""
_CHUNK = 1 << 20
_BLANK = 16  # bytes; a longer line of white space is refused


@dataclass(frozen=True)
class Record:
    """`value`: the text of a file, or the object of a line or row."""

    value: Any
    place: str
    """`file:line`, for people."""
    is_end: bool = True
    """False where the document goes on in the next record."""


class Records(Protocol):
    """A sequence of records. `blocks` says how many lie together: one block if any record can be
    read at the same cost, else as many as are read at a time (a single one, which costs all of its
    records too, has an empty one behind it). `paths`: the files, in order."""

    @property
    def blocks(self) -> Sequence[int]: ...
    @property
    def paths(self) -> Sequence[Path]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, at: int) -> Record: ...


class JsonLines:
    """One JSON object a line; blank lines are no records."""

    def __init__(self, path: Path) -> None:
        self._path = path
        starts = _line_starts(path)
        self._lines = np.delete(np.arange(len(starts) - 1), _blank_lines(path, starts))
        self._starts = starts
        self.blocks, self.paths = [len(self)], [path]

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, at: int) -> Record:
        line = int(self._lines[at])
        place = f"{self._path}:{line + 1}"
        return Record(_parsed(_bytes(self._path, self._starts, line), place), place)


class JsonFile:
    """One JSON list of objects, held in memory whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values = _parsed(_read(path), str(path))
        if not isinstance(self._values, list):
            raise DataError(f"{path}: is not a list of objects: give a list, or JSON lines")
        self.blocks, self.paths = [len(self)], [path]

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, at: int) -> Record:
        return Record(self._values[at], f"{self._path}: entry {at + 1}")


class TextFiles:
    """Plain text and code: one document a file, in records of at most `piece` bytes (PIECE). Every
    file must be UTF-8."""

    def __init__(self, paths: Sequence[Path], piece: int | None = None) -> None:
        self.paths = paths
        cuts = [_text_cuts(path, piece or PIECE) for path in paths]
        self._cuts = cuts
        self._ends = list(accumulate(len(c) - 1 for c in cuts))
        self.blocks = [len(self)]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, at: int) -> Record:
        file = bisect_right(self._ends, at)
        cuts = self._cuts[file]
        piece = at - self._ends[file] + len(cuts) - 1
        path = self.paths[file]
        raw = _read(path, cuts[piece], cuts[piece + 1])
        is_whole = len(cuts) == 2
        place = str(path) if is_whole else f"{path}: bytes {cuts[piece]}-{cuts[piece + 1]}"
        text = _decoded(raw, place, at_start=piece == 0)
        return Record(text, place, is_end=piece + 2 == len(cuts))


class Joined:
    """Several sequences of records as one."""

    def __init__(self, parts: Sequence[Records]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))
        self.blocks = joined_blocks([part.blocks for part in parts])
        self.paths = [path for part in parts for path in part.paths]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, at: int) -> Record:
        part = bisect_right(self._ends, at)
        return self._parts[part][at - self._ends[part] + len(self._parts[part])]


def joined_blocks(parts: Sequence[Sequence[int]]) -> list[int]:
    """Neighbours that are one block each become one: any record of them can be read alone."""
    blocks: list[int] = []
    was_single = False
    for part in parts:
        is_single = len(part) == 1
        if is_single and was_single:
            blocks[-1] += part[0]
        else:
            blocks += part
        was_single = is_single
    return blocks


def _line_starts(path: Path) -> NDArray[np.int64]:
    """Where each line begins, and the size of the file behind the last."""
    found, at = [np.zeros(1, np.int64)], 0
    with reading(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + (at + 1))
            at += len(chunk)
    starts = np.concatenate(found)
    return starts if starts[-1] == at else np.append(starts, at)


def _blank_lines(path: Path, starts: NDArray[np.int64]) -> list[int]:
    """Only short ones are looked at, there may be millions: through one open file."""
    short = np.flatnonzero(np.diff(starts) <= _BLANK).tolist()
    with reading(path), path.open("rb") as file:

        def is_blank(line: int) -> bool:
            file.seek(starts[line])
            return not file.read(starts[line + 1] - starts[line]).strip()

        return [line for line in short if is_blank(line)]


def _bytes(path: Path, starts: NDArray[np.int64], line: int) -> bytes:
    return _read(path, int(starts[line]), int(starts[line + 1])).strip()


def _read(path: Path, start: int = 0, end: int | None = None) -> bytes:
    """Bytes start..end of a file, which must still have them."""
    with reading(path), path.open("rb") as file:
        file.seek(start)
        raw = file.read() if end is None else file.read(end - start)
    if end is not None and len(raw) < end - start:
        raise DataError(f"{path}: has become shorter while it was in use: start again")
    return raw


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into NotFoundError."""
    try:
        yield
    except OSError as error:
        raise NotFoundError(f"{path}: cannot be read ({error.strerror}): check it") from error


def loads(text: bytes | str) -> Any:
    """JSON. Raises ValueError, also for a key that comes twice and for nesting without end."""
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _parsed(raw: bytes, place: str) -> Any:
    try:
        return loads(raw)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{place}: is not valid JSON ({reason}): mend or remove it") from error


def _decoded(raw: bytes, place: str, *, at_start: bool = False) -> str:
    try:
        return file_text(raw) if at_start else raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: is not UTF-8 (byte {error.start}): convert or remove it"
        ) from error


def _text_cuts(path: Path, piece: int) -> list[int]:
    """Offsets 0, ..., size that cut a text file behind line ends into at most `piece` bytes."""
    cuts = [0]
    with reading(path), path.open("rb") as file:
        while len(chunk := file.read(piece)) == piece:
            cut = chunk.rfind(b"\n") + 1 or _character_start(chunk)
            cuts.append(cuts[-1] + cut)
            _decoded(chunk[:cut], f"{path} from byte {cuts[-2]}")
            file.seek(cuts[-1])
    _decoded(chunk, f"{path} from byte {cuts[-1]}")
    return [*cuts, cuts[-1] + len(chunk)] if chunk else cuts


def _character_start(chunk: bytes) -> int:
    """The last place at which a UTF-8 character begins."""
    at = len(chunk) - 1
    while at > 0 and chunk[at] & 0xC0 == 0x80:
        at -= 1
    return at or len(chunk)
