"""Weights on their way out: what can be written, and its bytes in the format that is asked for.

A weight that already has the format is copied; any other goes through float32, which is exact from
every format qwell reads. So F32, F16 and BF16 become themselves again bit for bit, Q8_0 too.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Protocol

import numpy as np

from qwell.checkpoint.blocks import FORMATS, Bytes, Floats, finite
from qwell.checkpoint.tensor import Tensor, nbytes
from qwell.errors import CheckpointError

SLAB = 1 << 21
"""Weights written at a time: 8 MB in float32."""


class Source(Protocol):
    """A weight that can be written: a `Tensor`, or what a trainer wraps its parameter in."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    def float32(self, start: int = 0, stop: int | None = None) -> Floats: ...


def encoded_bytes(source: Source, dtype: str) -> int:
    """Bytes of the weight in `dtype`. Raises CheckpointError if its rows are not whole blocks."""
    try:
        return nbytes(dtype, source.shape)
    except ValueError as error:
        raise CheckpointError(f"{source.name}: {error}; write it as bf16 or f32") from error


def encoded(source: Source, dtype: str) -> Iterator[Bytes]:
    """The weight in `dtype`, a slab of rows at a time.

    Raises CheckpointError for a weight that is not finite, or not in `dtype`."""
    rows, width = source.shape[0], prod(source.shape[1:])
    step = rows if len(source.shape) == 1 else max(SLAB // width, 1)
    for start in range(0, rows, step):
        yield _slab(source, dtype, start, min(start + step, rows))


def _slab(source: Source, dtype: str, start: int, stop: int) -> Bytes:
    if isinstance(source, Tensor) and source.dtype == dtype:
        data = source.data if len(source.shape) == 1 else source.rows_bytes(start, stop)
        slab = np.ascontiguousarray(data).reshape(-1)
    else:
        slab = quantise(dtype, source.float32(start, stop))
    if not finite(dtype, slab):
        raise CheckpointError(
            f"{source.name} holds weights that are NaN, infinite, or too large for {dtype}: "
            "use another export of the model, or --dtype f32"
        )
    return slab


def quantise(dtype: str, values: Floats) -> Bytes:
    """float32 -> bytes of whole blocks. Plain floats are rounded to nearest, ties to even."""
    return _ENCODERS[dtype](np.ascontiguousarray(values, np.float32).reshape(-1))


def _f32(w: Floats) -> Bytes:
    return w.astype("<f4").view(np.uint8)


def _f16(w: Floats) -> Bytes:
    with np.errstate(over="ignore"):  # infinity is refused by who writes
        return w.astype("<f2").view(np.uint8)


def _bf16(w: Floats) -> Bytes:
    bits = w.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(w), quiet_nan, rounded).astype("<u2").view(np.uint8)


def _q8_0(w: Floats) -> Bytes:
    """GGML's rule: d = max |w| / 127 a block, q = round(w * (1 / d)) with ties away from zero by
    the float32 inverse of d before d itself is rounded to float16."""
    form = FORMATS["Q8_0"]
    blocks = w.reshape(-1, form.block)
    records = np.empty(len(blocks), form.layout)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
        scaled = blocks * np.where(d == 0, np.float32(0), np.float32(1) / d)
        records["d"] = d[:, 0].astype(np.float16)
        whole = np.trunc(scaled)
        away = np.trunc(2 * (scaled - whole))
        records["qs"] = (whole + away).astype(np.int8)
    return records.view(np.uint8)


_ENCODERS = {"F32": _f32, "F16": _f16, "BF16": _bf16, "Q8_0": _q8_0}
