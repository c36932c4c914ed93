"""The key/values of a GGUF file, with arrays that stay in the file until they are asked for.

    | key string | type u32 | value |        value of an array: | type u32 | count u64 | items |

A vocabulary of 151,936 strings costs 60 ms to decode; opening a checkpoint needs only its length
and the ids of two tokens, so those are found in the bytes. Knows no key by name.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from qwell.checkpoint.mapped import DAMAGED, MAX_NAME, U32, U64, Reader, quoted

_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: U32,
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: U64,
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_MAX_TEXT = 4 << 20


@dataclass(frozen=True, eq=False)
class Array:
    """An array that stays in the file until it is asked for."""

    reader: Reader
    key: str
    kind: int
    starts: array[int]
    """Where each string begins (at its length); for numbers only the position of the first."""
    count: int

    def values(self) -> list[object]:
        if not self.count:
            return []
        if self.kind == _STRING:
            return list(self._strings())
        form = _SCALARS[self.kind]
        dtype = np.dtype("?" if self.kind == _BOOL else form.format)
        numbers: list[object] = np.frombuffer(
            self.reader.view, dtype, self.count, self.starts[0]
        ).tolist()
        return numbers

    def _strings(self) -> Iterator[str]:
        view, length = self.reader.view, U64.unpack_from
        try:
            for at in self.starts:
                yield str(view[at + 8 : at + 8 + length(view, at)[0]], "utf-8")
        except UnicodeDecodeError as error:
            raise self.reader.fault(f"{self.key} holds bytes that are not UTF-8") from error

    def index(self, text: str) -> int | None:
        """Position of a string, found without decoding the others."""
        if self.kind != _STRING or not self.starts:
            return None
        raw = text.encode()
        first, pattern = self.starts[0], U64.pack(len(raw)) + raw
        region = bytes(self.reader.view[first : self.starts[-1] + len(pattern)])
        at = region.find(pattern)
        while at >= 0:
            place = bisect_left(self.starts, first + at)
            if place < self.count and self.starts[place] == first + at:
                return place
            at = region.find(pattern, at + 1)
        return None


class Metadata(Mapping[str, object]):
    """Key/values of a GGUF file. Arrays are plain lists, decoded when first asked for."""

    def __init__(self, raw: dict[str, object]) -> None:
        self._raw = raw

    def __getitem__(self, key: str) -> object:
        value = self._raw[key]
        if isinstance(value, Array):
            value = self._raw[key] = value.values()
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def scalar(self, key: str) -> object:
        """The value, or None if the key is absent or an array; a hostile array costs nothing."""
        value = self._raw.get(key)
        return None if isinstance(value, (Array, list)) else value

    def length(self, key: str) -> int:
        """Elements of an array, 0 if the key is absent or no array; decodes nothing."""
        value = self._raw.get(key)
        if isinstance(value, Array):
            return value.count
        return len(value) if isinstance(value, list) else 0

    def index(self, key: str, text: str) -> int | None:
        """Position of `text` in an array of strings, or None; decodes nothing."""
        value = self._raw.get(key)
        if isinstance(value, Array):
            return value.index(text)
        return value.index(text) if isinstance(value, list) and text in value else None


def read_metadata(reader: Reader, count: int) -> Metadata:
    """The next `count` key/values. Raises CheckpointError naming the key."""
    raw: dict[str, object] = {}
    for _ in range(count):
        key = reader.string("a key", MAX_NAME)
        if key in raw:
            raise reader.fault(f"the key {quoted(key)} appears twice: {DAMAGED}")
        raw[key] = _value(reader, f"the key {quoted(key)}")
    return Metadata(raw)


def _value(reader: Reader, what: str) -> object:
    kind = reader.number(U32, what)
    if kind == _STRING:
        return reader.string(what, _MAX_TEXT)
    if kind == _ARRAY:
        return _read_array(reader, what)
    return _scalar(reader, what, kind)


def _scalar(reader: Reader, what: str, kind: int) -> object:
    if kind not in _SCALARS:
        raise reader.fault(f"{what} has the unknown value type {kind}: {DAMAGED}")
    value: object = reader.number(_SCALARS[kind], what)
    if kind != _BOOL:
        return value
    if value not in (0, 1):
        raise reader.fault(f"{what} is a bool of value {value}: {DAMAGED}")
    return value == 1


def _read_array(reader: Reader, what: str) -> Array:
    kind, count = reader.number(U32, what), reader.number(U64, what)
    if kind == _STRING:
        return Array(reader, what, kind, _walk(reader, count, what), count)
    if kind not in _SCALARS:
        name = "nested arrays" if kind == _ARRAY else f"an array of the unknown type {kind}"
        raise reader.fault(f"{what} is {name}, which no Qwen2.5 file has: {DAMAGED}")
    first = reader.take(count * _SCALARS[kind].size, what)
    return Array(reader, what, kind, array("q", [first]), count)


def _walk(reader: Reader, count: int, what: str) -> array[int]:
    """Steps over `count` strings and gives where each begins.

    A vocabulary has 300,000 of them, so the loop does nothing but read lengths. It cannot run
    away: a length past the end makes the next read fail, or is caught by the last check."""
    start = at = reader.take(8 * count, what)
    view, unpack, starts = reader.view, U64.unpack_from, array("q", [0]) * count
    try:
        for i in range(count):
            starts[i] = at
            at += 8 + unpack(view, at)[0]
    except (struct.error, OverflowError, IndexError):
        at = len(view) + 1
    reader.position = start
    reader.take(at - start, what)
    return starts
