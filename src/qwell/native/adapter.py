"""Adapters packed for a program, to stand behind the packed weights of their model.

The base stays as it is, in its cached file; factors are small, so they are packed at every load.
A factor has the precision of the matrix it adds to: float32 beside F32, float16 beside F16, else
bf16. So it is never less exact than the matrix, and prompt rows go over tiles where those do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwell.checkpoint.encode import quantise
from qwell.model.weights import LowRank, Stored
from qwell.native.pack import ALIGN, pack_floats
from qwell.native.packed import PackedTensor, padded_inputs

U8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Factor:
    """A or B in panels: `data` will lie at `offset` of the program's weights."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    data: U8
    source: Stored

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        return self.source.float32(start, stop)


@dataclass(frozen=True, eq=False)
class Factors:
    """Both factors of one linear, as `model.weights.LowRank` has them."""

    a: Factor
    b: Factor


def pack_adapters(
    adapters: Mapping[str, LowRank], bases: Mapping[str, PackedTensor], size: int
) -> tuple[dict[str, Factors], U8]:
    """The factors of every linear, and their bytes in one piece, for a program whose packed
    weights have `size` bytes."""
    begin = at = -(-size // ALIGN) * ALIGN
    packed: dict[str, Factors] = {}
    for module, pair in adapters.items():
        base = bases[f"{module}.weight"].dtype
        dtype = base if base in ("F32", "F16") else "BF16"
        a = _factor(pair.a, dtype, at)
        b = _factor(pair.b, dtype, at + len(a.data))
        at = b.offset + len(b.data)
        packed[module] = Factors(a, b)
    data = np.empty(at - begin, np.uint8)
    for factors in packed.values():
        for factor in (factors.a, factors.b):
            data[factor.offset - begin :][: len(factor.data)] = factor.data
    return packed, data


def _factor(stored: Stored, dtype: str, offset: int) -> Factor:
    rows, inputs = stored.shape
    raw = quantise(dtype, stored.float32()).reshape(rows, inputs, -1)
    data = pack_floats(dtype, raw, padded_inputs(dtype, inputs)).reshape(-1)
    assert len(data) % ALIGN == 0, "a panel is a whole number of lines"
    return Factor(stored.name, (rows, inputs), dtype, offset, data, stored)
