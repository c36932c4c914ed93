"""The packed form of a checkpoint on disk: `weights.json`, a table, and `weights.bin`, the bytes.

A matrix lies in panels as csrc/packed.h draws them; a vector (norm, bias) as float32. Every
tensor starts on a 64-byte border. The packed form keeps the numbers of the source file, only
their order changes; with int8, float matrices are quantised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwell import _core
from qwell.errors import StorageError

VERSION = 3
"""Raised when the layout of packed.h or of the table changes; old packs are then made anew."""


@dataclass(frozen=True)
class PackedTensor:
    """A tensor in weights.bin. dtype is a format of the core; a vector's is F32."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    nbytes: int
    path: Path

    @property
    def data(self) -> NDArray[np.uint8]:
        return np.memmap(self.path, np.uint8, "r", self.offset, (self.nbytes,))

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """The numbers again, unpacked one row at a time: for vectors, and for tests."""
        if len(self.shape) == 1:
            return np.frombuffer(self.data.tobytes(), np.float32)[start:stop]
        rows = range(start, self.shape[0] if stop is None else stop)
        form = getattr(_core.Format, self.dtype)
        out = np.empty((len(rows), padded_inputs(self.dtype, self.shape[1])), np.float32)
        for i, row in enumerate(rows):
            _core.gather_column(form, self.data, out.shape[1], row, out[i])
        return np.ascontiguousarray(out[:, : self.shape[1]])


def padded_inputs(dtype: str, k: int) -> int:
    """k filled up with zero weights to what a kernel takes at a time."""
    block, _, integer = _core.format_info(getattr(_core.Format, dtype))
    unit = max(block, 32) if integer else 2
    return -(-k // unit) * unit


def packed_key(files: Sequence[Path], *, int8: bool = False) -> str:
    """Names the pack of these files: their places, sizes and times, our version, and whether
    float matrices become int8. Reading gigabytes to hash them would cost more than packing."""
    facts = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(files)]
    return hashlib.sha256(json.dumps([VERSION, int8, facts]).encode()).hexdigest()[:32]


def read_table(folder: Path) -> tuple[dict[str, PackedTensor], int]:
    """The tensors of a pack and the size of its weights.bin. Raises StorageError if damaged."""
    try:
        table: dict[str, Any] = json.loads((folder / "weights.json").read_text())
        path = folder / "weights.bin"
        if table["version"] != VERSION or path.stat().st_size != table["bytes"]:
            raise ValueError("it is of another version, or cut")
        tensors = {
            name: PackedTensor(name, tuple(t["shape"]), t["dtype"], t["offset"], t["nbytes"], path)
            for name, t in table["tensors"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, str(error)) from error
    return tensors, table["bytes"]


def damaged(folder: Path, what: str) -> StorageError:
    """The fault of a pack that cannot be used, and what to do."""
    return StorageError(
        f"the packed model in {folder} is damaged ({what}): delete that folder, "
        "the next start packs the model again"
    )
