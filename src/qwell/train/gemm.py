"""The three matrix products of a linear layer, each in the layout that is fast on this machine.

Forward reads the weight [out, in] by rows, the input gradient reads it by columns, the weight
gradient sums over rows of both operands. Which way oneDNN is fast differs by a factor of two
(LOG.md, 2026-11-25), so the choice is made here and nowhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor


def matmul_nt(a: Tensor, b: Tensor) -> Tensor:
    """[M, K] x [N, K] -> [M, N]: the forward product x W^T."""
    return a @ b.t()


def matmul_nn(a: Tensor, b: Tensor) -> Tensor:
    """[M, K] x [K, N] -> [M, N]: the input gradient g W."""
    return a @ b


def matmul_tn(a: Tensor, b: Tensor) -> Tensor:
    """[K, M] x [K, N] -> [M, N]: the weight gradient g^T x."""
    if a.dtype == torch.bfloat16 and a.device.type == "cpu":
        return a.t().contiguous() @ b
    return a.t() @ b
