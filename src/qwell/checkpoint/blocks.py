"""The number formats of weights: how many bytes a block has and which floats it means.

`FORMATS` maps a format's name to its block. The layouts are NumPy record types, so a drawing
below and the code say the same thing. Every value is computed in float32 with the operations
in the order the formula states, so two exact implementations agree bit for bit. Knows no file.

Drawings: one cell is a field with its bytes; `x[a:b]` counts bytes, `i` the weight in the block.
Small fields are packed in runs: a run of `w` bytes holds `w` consecutive weights in its lowest
bits, the next `w` weights in the bits above, and so on; then the next run starts. This is what
`_runs` undoes, and all the formats differ in is `w` and the width of the field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Records = npt.NDArray[np.void]
Halves = npt.NDArray[np.float16]
Signed = npt.NDArray[np.int8]

SLAB = 1 << 17
"""Weights decoded at a time: keeps the intermediate arrays inside the processor's cache."""


@dataclass(frozen=True)
class Codes:
    """What integer blocks store, unpacked and not yet multiplied. n blocks, groups g in each.

    w = (scale * sub_scale) * (q - zero) - min * sub_min; absent parts are left out.
    """

    q: Bytes  # [n, block], unsigned
    zero: int
    scale: Halves  # [n]
    sub_scale: Signed | None = None  # [n, g]
    min: Halves | None = None  # [n]
    sub_min: Signed | None = None  # [n, g]

    def floats(self) -> Floats:
        """[n, block] float32."""
        groups = 1 if self.sub_scale is None else self.sub_scale.shape[1]
        q = (self.q.astype(np.int16) - self.zero).astype(np.float32)
        w = _times(self.scale, self.sub_scale)[:, :, None] * q.reshape(len(q), groups, -1)
        if self.min is not None:
            w -= _times(self.min, self.sub_min)[:, :, None]
        return w.reshape(len(q), -1)


def _times(half: Halves, small: Signed | None) -> Floats:
    """[n] float16 by [n, g] small integers -> [n, g] float32; [n, 1] without them."""
    wide = half.astype(np.float32)[:, None]
    return wide if small is None else wide * small.astype(np.float32)


@dataclass(frozen=True)
class Format:
    """One number format: `block` weights in `layout.itemsize` bytes. Plain floats have `decode`,
    integer blocks `codes`."""

    block: int
    layout: np.dtype[np.void]
    decode: Callable[[Records], Floats]
    """Records [n] -> float32 [n, block]."""
    codes: Callable[[Records], Codes] | None
    floats: tuple[tuple[str, int], ...]
    """Fields that hold floats, each with the exponent bits that are all set in NaN and infinity."""

    @property
    def block_bytes(self) -> int:
        return self.layout.itemsize


def dequantise(name: str, data: Bytes) -> Floats:
    """float32 [weights] of whole blocks `data` (uint8 [blocks * block_bytes], any alignment).

    NaN and infinity in a scale pass through without a warning; see `finite`."""
    form = FORMATS[name]
    records = data.view(form.layout)
    out = np.empty(len(records) * form.block, np.float32)
    step = SLAB // form.block
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(records), step):
            values = form.decode(records[start : start + step])
            out[start * form.block :][: values.size] = values.reshape(-1)
    return out


def unpack(name: str, data: Bytes) -> Codes:
    """The codes of whole integer blocks `data` (uint8 [blocks * block_bytes])."""
    form = FORMATS[name]
    assert form.codes is not None, f"{name} stores plain floats"
    return form.codes(data.view(form.layout))


def finite(name: str, data: Bytes) -> bool:
    """True if no float of the blocks (plain weights, or the float16 scales) is NaN or infinite.

    Finite float16 scales cannot overflow float32: the largest weight is 65504 * 63 * 31."""
    form = FORMATS[name]
    records = data.view(form.layout)
    for start in range(0, len(records), SLAB):
        for field, exponent in form.floats:
            bits = records[start : start + SLAB][field]
            bits = bits.view(f"<u{bits.dtype.itemsize}")
            if np.any((bits & exponent) == exponent):
                return False
    return True


def _runs(packed: Bytes, width: int, bits: int) -> Bytes:
    """[n, B] bytes -> [n, B * 8 / bits] fields, unpacked in runs of `width` bytes (see above)."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields = packed.reshape(len(packed), -1, 1, width) >> shifts
    return (fields & np.uint8(2**bits - 1)).reshape(len(packed), -1)


# --- plain floats ---------------------------------------------------------------------------


def _f32(b: Records) -> Floats:
    """| w f32 |"""
    return b["w"].astype(np.float32)


def _f16(b: Records) -> Floats:
    """| w f16 |  every float16 is a float32"""
    return b["w"].astype(np.float32)


def _bf16(b: Records) -> Floats:
    """| w u16 |  the upper half of a float32"""
    return (b["w"].astype(np.uint32) << 16).view(np.float32)


# --- blocks of 32: one float16 scale --------------------------------------------------------


def _q4_0(b: Records) -> Codes:
    """| d f16 | qs[0:16] |  18 bytes.  q: 4 bits, run 16.  w = d * (q - 8)"""
    return Codes(_runs(b["qs"], 16, 4), 8, b["d"])


def _q4_1(b: Records) -> Codes:
    """| d f16 | m f16 | qs[0:16] |  20 bytes.  q: 4 bits, run 16.  w = d * q + m"""
    return Codes(_runs(b["qs"], 16, 4), 0, b["d"], min=-b["m"])


def _five_bits(b: Records) -> Bytes:
    """Low 4 bits from qs (run 16), bit 4 of weight i from bit i of qh[0:4]."""
    high = np.unpackbits(b["qh"], axis=1, bitorder="little")
    return _runs(b["qs"], 16, 4) | high << np.uint8(4)


def _q5_0(b: Records) -> Codes:
    """| d f16 | qh[0:4] | qs[0:16] |  22 bytes.  w = d * (q - 16)"""
    return Codes(_five_bits(b), 16, b["d"])


def _q5_1(b: Records) -> Codes:
    """| d f16 | m f16 | qh[0:4] | qs[0:16] |  24 bytes.  w = d * q + m"""
    return Codes(_five_bits(b), 0, b["d"], min=-b["m"])


def _q8_0(b: Records) -> Codes:
    """| d f16 | qs[0:32] int8 |  34 bytes.  w = d * qs; the code is qs + 128"""
    return Codes(b["qs"].view(np.uint8) ^ np.uint8(128), 128, b["d"])


# --- K blocks of 256: groups with small integer scales under one or two float16 --------------


def _q2_k(b: Records) -> Codes:
    """| scales[0:16] | qs[0:64] | d f16 | dmin f16 |  84 bytes, 16 groups of 16.

    q: 2 bits, run 32. Group g: low 4 bits of scales[g] its scale s, high 4 its minimum m.
    w = (d * s) * q - dmin * m"""
    s, m = (b["scales"] & 15).view(np.int8), (b["scales"] >> 4).view(np.int8)
    return Codes(_runs(b["qs"], 32, 2), 0, b["d"], s, b["dmin"], m)


def _q3_k(b: Records) -> Codes:
    """| hmask[0:32] | qs[0:64] | scales[0:12] | d f16 |  110 bytes, 16 groups of 16.

    q: low 2 bits from qs (run 32), bit 2 from hmask (run 32), 0..7.
    s, 6 bits, 16 of them: low 4 bits from scales[0:8] (run 8), high 2 from scales[8:12] (run 4).
    w = (d * (s - 32)) * (q - 4)"""
    low, high = b["scales"][:, :8], b["scales"][:, 8:]
    s = (_runs(low, 8, 4) | _runs(high, 4, 2) << 4).astype(np.int8) - 32
    return Codes(_runs(b["qs"], 32, 2) | _runs(b["hmask"], 32, 1) << np.uint8(2), 4, b["d"], s)


def _scales_minima(packed: Bytes) -> tuple[Signed, Signed]:
    """The 12 bytes of Q4_K and Q5_K: 8 scales and 8 minima of 6 bits.

    byte j in 0..3:   | s[j+4] bits 4-5 | s[j] bits 0-5 |
    byte 4+j:         | m[j+4] bits 4-5 | m[j] bits 0-5 |
    byte 8+j:         | m[j+4] bits 0-3 | s[j+4] bits 0-3 |"""
    s, m, low = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([s & 63, (low & 15) | (s >> 6) << 4], axis=1)
    minima = np.concatenate([m & 63, (low >> 4) | (m >> 6) << 4], axis=1)
    return scales.view(np.int8), minima.view(np.int8)


def _q4_k(b: Records) -> Codes:
    """| d f16 | dmin f16 | scales[0:12] | qs[0:128] |  144 bytes, 8 groups of 32.

    q: 4 bits, run 32. Scales and minima as in _scales_minima. w = (d * s) * q - dmin * m"""
    s, m = _scales_minima(b["scales"])
    return Codes(_runs(b["qs"], 32, 4), 0, b["d"], s, b["dmin"], m)


def _q5_k(b: Records) -> Codes:
    """| d f16 | dmin f16 | scales[0:12] | qh[0:32] | qs[0:128] |  176 bytes, 8 groups of 32.

    q: low 4 bits from qs (run 32), bit 4 from qh (run 32). w = (d * s) * q - dmin * m"""
    s, m = _scales_minima(b["scales"])
    q = _runs(b["qs"], 32, 4) | _runs(b["qh"], 32, 1) << np.uint8(4)
    return Codes(q, 0, b["d"], s, b["dmin"], m)


def _q6_k(b: Records) -> Codes:
    """| ql[0:128] | qh[0:64] | scales[0:16] int8 | d f16 |  210 bytes, 16 groups of 16.

    q: low 4 bits from ql (run 64), high 2 from qh (run 32). w = (d * s) * (q - 32)"""
    q = _runs(b["ql"], 64, 4) | _runs(b["qh"], 32, 2) << np.uint8(4)
    return Codes(q, 32, b["d"], b["scales"])


_Field = tuple[str, str] | tuple[str, str, int]
_D, _M, _DMIN = ("d", "<f2"), ("m", "<f2"), ("dmin", "<f2")


def _plain(decode: Callable[[Records], Floats], kind: str, exponent: int) -> Format:
    return Format(1, np.dtype([("w", kind)]), decode, None, (("w", exponent),))


def _format(
    block: int,
    codes: Callable[[Records], Codes],
    fields: Sequence[_Field],
    floats: Sequence[tuple[str, int]] = (("d", 0x7C00),),
) -> Format:
    return Format(block, np.dtype(list(fields)), lambda b: codes(b).floats(), codes, tuple(floats))


_TWO = (("d", 0x7C00), ("m", 0x7C00))
_TWO_K = (("d", 0x7C00), ("dmin", 0x7C00))

FORMATS: dict[str, Format] = {
    "F32": _plain(_f32, "<f4", 0x7F800000),
    "F16": _plain(_f16, "<f2", 0x7C00),
    "BF16": _plain(_bf16, "<u2", 0x7F80),
    "Q4_0": _format(32, _q4_0, [_D, ("qs", "u1", 16)]),
    "Q4_1": _format(32, _q4_1, [_D, _M, ("qs", "u1", 16)], _TWO),
    "Q5_0": _format(32, _q5_0, [_D, ("qh", "u1", 4), ("qs", "u1", 16)]),
    "Q5_1": _format(32, _q5_1, [_D, _M, ("qh", "u1", 4), ("qs", "u1", 16)], _TWO),
    "Q8_0": _format(32, _q8_0, [_D, ("qs", "i1", 32)]),
    "Q2_K": _format(256, _q2_k, [("scales", "u1", 16), ("qs", "u1", 64), _D, _DMIN], _TWO_K),
    "Q3_K": _format(256, _q3_k, [("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), _D]),
    "Q4_K": _format(256, _q4_k, [_D, _DMIN, ("scales", "u1", 12), ("qs", "u1", 128)], _TWO_K),
    "Q5_K": _format(
        256,
        _q5_k,
        [_D, _DMIN, ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)],
        _TWO_K,
    ),
    "Q6_K": _format(256, _q6_k, [("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), _D]),
}
"""Every weight format qwell reads, by its GGML name."""
