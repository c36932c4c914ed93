"""Comparing floats by their bits: 0 is not -0, and every NaN is the same NaN.

NumPy's own comparison takes 0 for -0. Which NaN an operation gives is up to the processor, so its
payload and sign count for nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def canonical(x: F32) -> NDArray[np.uint32]:
    """The bits of float32 x, all NaN made one."""
    return np.where(np.isnan(x), np.uint32(0x7FC00000), np.ascontiguousarray(x).view(np.uint32))


def assert_same_bits(got: F32, want: F32, what: str = "") -> None:
    assert got.shape == want.shape, what
    different = np.argwhere(canonical(got) != canonical(want))
    assert not len(different), (
        f"{what}: {len(different)} of {want.size} differ, first at {tuple(different[0])}: "
        f"{got[tuple(different[0])]!r} is not {want[tuple(different[0])]!r}"
    )


def lay_page(keys: NDArray[np.uint16], values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Keys and values [64, H] of a page as csrc/kernels.h draws it: [2, H * 64], in pairs."""
    head_dim = keys.shape[1]
    paired_keys = keys.reshape(64, head_dim // 2, 2).transpose(1, 0, 2)
    paired_values = values.reshape(32, 2, head_dim).transpose(0, 2, 1)
    return np.stack([paired_keys.reshape(-1), paired_values.reshape(-1)])


def read_page(page: NDArray[np.uint16], head_dim: int) -> tuple[NDArray[np.uint16], ...]:
    """The inverse of lay_page, of 2 * H * 64 numbers."""
    keys, values = page.reshape(2, -1)
    rows = values.reshape(32, head_dim, 2).transpose(0, 2, 1).reshape(64, head_dim)
    return keys.reshape(head_dim // 2, 64, 2).transpose(1, 0, 2).reshape(64, head_dim), rows


def raw(pages: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """bf16 pages [n, 2, H * 64] as the core takes them: [n, bytes]."""
    return pages.reshape(len(pages), -1).view(np.uint8)
