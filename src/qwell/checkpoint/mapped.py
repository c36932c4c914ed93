"""A file as read-only memory, and a reader that never steps outside it.

Holds the memory map, the bounds-checked reader of little-endian numbers and strings, and the
strict JSON object reader that both formats use. Nothing is allocated by a number read from a
file before that number is compared with the bytes that are there. Knows no model and no format.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwell.errors import CheckpointError, NotFoundError

Bytes = npt.NDArray[np.uint8]

DAMAGED = "the file is cut or damaged; fetch it again"

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")

MAX_NAME = 1 << 10
"""Longest name of a key or tensor in bytes; GGUF allows tensors 64."""

MAX_JSON = 2 << 20
"""Largest JSON text that is parsed. The largest header of the family has 0.1 MB; hostile JSON
grows about thirtyfold in memory, so this also bounds what a bad file can cost."""


def map_file(path: Path) -> Bytes:
    """The whole file as uint8 [size], read-only; the map lives as long as a view of it does.

    Raises NotFoundError if there is no such file, CheckpointError if it is empty or unreadable."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise CheckpointError(f"{path}: is empty; fetch it again")
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); check the path") from error


def quoted(name: str) -> str:
    """A name out of a file, safe to show on one line."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")


class Reader:
    """Walks the first `limit` bytes of a mapped file. Every step is checked before it is taken."""

    def __init__(self, data: Bytes, path: Path, limit: int) -> None:
        self.path = path
        self.view = data.data[:limit]
        self.position = 0

    def fault(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {message}")

    def take(self, count: int, what: str) -> int:
        """Steps over `count` bytes and gives the position of the first."""
        start = self.position
        if count > len(self.view) - start:
            raise self.fault(
                f"{what} needs {count:,} bytes at {start:,} but only "
                f"{len(self.view) - start:,} are left for the header: {DAMAGED}"
            )
        self.position = start + count
        return start

    def number(self, form: struct.Struct, what: str) -> Any:
        """One number of the given struct format."""
        return form.unpack_from(self.view, self.take(form.size, what))[0]

    def count(self, what: str, most: int) -> int:
        """A u64 that counts things; refused above `most`."""
        count: int = self.number(U64, what)
        if count > most:
            raise self.fault(f"{what} is {count:,}, more than {most:,}: {DAMAGED}")
        return count

    def string(self, what: str, longest: int) -> str:
        """A u64 length and that many bytes of UTF-8; refused above `longest` bytes."""
        length = self.count(f"the length of {what}", longest)
        start = self.take(length, what)
        try:
            return str(self.view[start : start + length], "utf-8")
        except UnicodeDecodeError as error:
            raise self.fault(f"{what} is not UTF-8: {DAMAGED}") from error


def parse_object(text: bytes | memoryview, where: str) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError for anything else, for a repeated key at any depth,
    for NaN and Infinity, and for a text above MAX_JSON bytes."""
    if len(text) > MAX_JSON:
        raise CheckpointError(
            f"{where}: {len(text):,} bytes of JSON, more than {MAX_JSON:,} allowed"
        )
    try:
        value = json.loads(
            str(text, "utf-8"), object_pairs_hook=unique_keys, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not sound JSON ({error}): {DAMAGED}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: not a JSON object: {DAMAGED}")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a small file; errors as map_file and parse_object."""
    return parse_object(map_file(path).data, str(path))


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object_pairs_hook. Raises ValueError for a key that comes twice: which was meant?"""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {quoted(twice)} appears twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
