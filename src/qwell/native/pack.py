"""Tensors of a checkpoint -> weights.bin and weights.json, in the order the kernels read.

Plain NumPy, a few panels at a time: codes are moved, never changed. The layout is drawn in
csrc/packed.h; `packed.PackedTensor.float32` undoes it, which is how the tests check it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwell.checkpoint.blocks import FORMATS, Codes, unpack
from qwell.checkpoint.tensor import Tensor, check_finite
from qwell.errors import CheckpointError
from qwell.native.packed import VERSION, padded_inputs

PANEL = 32
ALIGN = 64
SLAB = 1 << 21
"""Weights packed at a time: small enough for the cache, large enough for NumPy."""

BITS = {"Q4_0": 4, "Q4_1": 4, "Q5_0": 5, "Q5_1": 5, "Q8_0": 8}
BITS |= {"Q2_K": 4, "Q3_K": 4, "Q4_K": 4, "Q5_K": 5, "Q6_K": 6}
"""Bits a code takes in a panel; Q2_K and Q3_K are rare and stay exact at four."""

U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class _Plan:
    """One tensor's place in weights.bin."""

    tensor: Tensor
    dtype: str
    offset: int
    nbytes: int


def write_packed(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    int8: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Packs every tensor into folder/weights.bin and writes the table beside it.

    Integer formats keep their codes, float formats their floats; int8=True quantises float
    matrices to Q8_0 (32 inputs share a float16 scale). progress(done, total) counts packed bytes.
    Raises CheckpointError for a weight that is not finite, OSError if the disk refuses.
    """
    plans = list(_plan(tensors, int8))
    total = packed_bytes(tensors, int8=int8)
    with (folder / "weights.bin").open("wb") as file, ThreadPoolExecutor(2) as pool:
        file.truncate(total)
        done = 0
        for plan in plans:
            check_finite(plan.tensor)
            parts = list(_parts(plan))
            for written in pool.map(lambda part: _write(file.fileno(), *part), parts):
                done += written
                if progress is not None:
                    progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    table = {
        p.tensor.name: {
            "shape": p.tensor.shape, "dtype": p.dtype, "offset": p.offset, "nbytes": p.nbytes
        }
        for p in plans
    }  # fmt: skip
    document = {"version": VERSION, "bytes": total, "tensors": table}
    (folder / "weights.json").write_text(json.dumps(document))


def packed_bytes(tensors: Mapping[str, Tensor], *, int8: bool = False) -> int:
    """The size of weights.bin."""
    *_, last = _plan(tensors, int8)
    return last.offset + last.nbytes


def _plan(tensors: Mapping[str, Tensor], int8: bool) -> Iterator[_Plan]:
    at = 0
    for tensor in tensors.values():
        dtype = "F32" if len(tensor.shape) == 1 else tensor.dtype
        if int8 and len(tensor.shape) == 2 and FORMATS[dtype].block == 1 and not _odd(tensor):
            dtype = "Q8_0"
        nbytes = packed_nbytes(dtype, tensor.shape)
        yield _Plan(tensor, dtype, at, nbytes)
        at += -(-nbytes // ALIGN) * ALIGN


def _odd(tensor: Tensor) -> bool:
    """Inputs that are not whole groups of 32 stay float."""
    return bool(tensor.shape[1] % 32)


def packed_nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor once packed: whole panels for a matrix, float32 for a vector."""
    if len(shape) == 1:
        return 4 * shape[0]
    return -(-shape[0] // PANEL) * panel_nbytes(dtype, shape[1])


def panel_nbytes(dtype: str, k: int) -> int:
    """Bytes of one panel of 32 outputs."""
    if dtype not in BITS:
        return padded_inputs(dtype, k) * PANEL * FORMATS[dtype].block_bytes
    block = FORMATS[dtype].block
    groups = 0 if block == 32 else (16 if dtype in ("Q2_K", "Q3_K", "Q6_K") else 8)
    parts = 2 if dtype in ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K") else 1
    return k // block * PANEL * (block * BITS[dtype] // 8 + parts * (2 + groups))


def _parts(plan: _Plan) -> Iterator[tuple[_Plan, int, int, int]]:
    """(plan, first row, last row, place in the file) of slabs of whole panels."""
    rows = plan.tensor.shape[0]
    if len(plan.tensor.shape) == 1:
        yield plan, 0, rows, plan.offset
        return
    step = max(SLAB // plan.tensor.shape[1] // PANEL, 1) * PANEL
    panel = panel_nbytes(plan.dtype, plan.tensor.shape[1])
    for start in range(0, rows, step):
        yield plan, start, min(start + step, rows), plan.offset + start // PANEL * panel


def _write(file: int, plan: _Plan, start: int, stop: int, at: int) -> int:
    data = _bytes(plan, start, stop)
    view = memoryview(data.tobytes())
    while view:  # a short write is no error; the next one says why
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
    return int(data.nbytes)


def _bytes(plan: _Plan, start: int, stop: int) -> U8:
    tensor = plan.tensor
    if len(tensor.shape) == 1:
        return tensor.float32().view(np.uint8)
    if plan.dtype not in BITS:
        width = FORMATS[plan.dtype].block_bytes
        raw = tensor.rows_bytes(start, stop).reshape(stop - start, -1, width)
        return pack_floats(plan.dtype, raw, padded_inputs(plan.dtype, tensor.shape[1]))
    if tensor.dtype == plan.dtype:
        codes = unpack(plan.dtype, tensor.rows_bytes(start, stop).reshape(-1))
    else:
        codes = quantise_q8(tensor.float32(start, stop))
        if not np.isfinite(codes.scale).all():
            raise CheckpointError(
                f"{tensor.source}: {tensor.name} has weights too large for int8: load without int8"
            )
    return pack_codes(codes, stop - start, BITS[plan.dtype])


def quantise_q8(w: NDArray[np.float32]) -> Codes:
    """[n, k] float32 -> Q8_0 codes: per 32 inputs scale = max |w| / 127, rounded to float16."""
    groups = w.reshape(-1, 32)
    with np.errstate(over="ignore"):  # an infinite scale is refused by who asks
        scale = (np.abs(groups).max(axis=1) / np.float32(127)).astype(np.float16)
    inverse = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1).astype(np.float32), 0)
    q = np.clip(np.rint(groups * inverse[:, None]), -127, 127).astype(np.int16) + 128
    return Codes(q.astype(np.uint8), 128, scale)


def pack_floats(dtype: str, raw: U8, k: int) -> U8:
    """[rows, inputs, bytes of one] -> panels [panels, k, 32, bytes], filled up with zeros. BF16,
    whose neighbours are multiplied together: [panels, k / 2, 32, 2 * bytes]."""
    rows, inputs, width = raw.shape
    whole = np.zeros((-(-rows // PANEL) * PANEL, k, width), np.uint8)
    whole[:rows, :inputs] = raw
    together = 2 if dtype == "BF16" else 1
    parts = whole.reshape(-1, PANEL, k // together, together * width)
    return np.ascontiguousarray(parts.transpose(0, 2, 1, 3))


def pack_codes(codes: Codes, rows: int, bits: int) -> U8:
    """Codes of `rows` rows -> panels [panels, blocks, bytes of a block], as packed.h draws them."""
    block = codes.q.shape[1]
    panels = -(-rows // PANEL)

    def by_panel(part: NDArray[np.generic]) -> NDArray[np.generic]:
        """[rows * blocks, m] -> [panels, blocks, m, 32]"""
        m = part.size // len(codes.q)
        whole = part.reshape(rows, -1, m)
        if rows % PANEL:
            fill = np.zeros((panels * PANEL - rows, *whole.shape[1:]), whole.dtype)
            whole = np.concatenate([whole, fill])
        return whole.reshape(panels, PANEL, -1, m).transpose(0, 2, 3, 1)

    def small(part: NDArray[np.generic]) -> U8:
        moved = np.ascontiguousarray(by_panel(part))
        return moved.view(np.uint8).reshape(panels, moved.shape[1], -1)

    q = np.ascontiguousarray(by_panel(codes.q))  # [panels, blocks, block, 32]
    scales = (codes.scale, codes.min, codes.sub_scale, codes.sub_min)
    parts = [small(part) for part in scales if part is not None]
    parts.append(_weights(q.view(np.uint8), bits, block))
    return np.concatenate(parts, axis=2)


def _weights(q: U8, bits: int, block: int) -> U8:
    """[panels, blocks, block, 32] codes -> [panels, blocks, bytes]."""
    panels, blocks = q.shape[:2]
    # k = 32 g + 4 r + j, column = 16 half + n -> rows [panels, blocks, g, half, r, (n, j)]
    r = q.reshape(panels, blocks, block // 32, 8, 4, 2, 16).transpose(0, 1, 2, 5, 3, 6, 4)
    r = np.ascontiguousarray(r).reshape(panels, blocks, block // 32, 2, 8, 64)
    if bits == 8:
        return r.reshape(panels, blocks, -1)
    low, high = r[..., :4, :] & np.uint8(15), r[..., 4:, :] << np.uint8(4)
    groups = [_flat(low | high)]
    if bits == 5:
        fifth = (r >> 4) << np.arange(8, dtype=np.uint8)[:, None]
        groups.append(_flat(np.bitwise_or.reduce(fifth, axis=4)))
    if bits == 6:
        pairs = (r >> 4).reshape(*r.shape[:4], 2, 4, 64)
        pairs <<= np.arange(0, 8, 2, dtype=np.uint8)[:, None]
        groups.append(_flat(np.bitwise_or.reduce(pairs, axis=5)))
    return np.concatenate(groups, axis=3).reshape(panels, blocks, -1)


def _flat(part: U8) -> U8:
    """Keeps [panels, blocks, g] and lays the rest end to end."""
    return part.reshape(*part.shape[:3], -1)
