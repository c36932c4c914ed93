"""The three matrix products of a linear layer.

Forward reads the weight [out, in] by rows, the input gradient reads it by columns, the weight
gradient sums over rows of both operands. The native kernel packs either order; where it does not
run, torch multiplies, and there the layout may decide about a factor of two (LOG.md, 2026-11-25),
so the choice is made here and nowhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qwell.train import kernels

FEW = 32
"""Columns of a product that is better computed transposed: columns are dealt to the threads."""


def product(
    a: Tensor,
    b: Tensor,
    *,
    bias: Tensor | None = None,
    more: tuple[Tensor, Tensor] | None = None,
    out: Tensor | None = None,
    add: bool = False,
) -> Tensor:
    """[m, k] x [k, n] (+ bias [n]) (+ the product of `more`) -> [m, n]; with `add`, on top of what
    is in `out`."""
    if kernels.takes(a, b, bias):
        if b.shape[1] <= FEW < len(a) and (bias, more, out) == (None, None, None):
            return kernels.product(b.t(), a.t()).t()
        return kernels.product(a, b, bias=bias, more=more, out=out, add=add)
    if add:
        assert out is not None
        out.addmm_(a, b)
    else:
        out = torch.mm(a, b, out=out)
    if bias is not None:
        out.add_(bias)
    return out if more is None else out.addmm_(*more)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, more: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """x W^T + bias (+ the product of `more`) of a layer: [M, K], [N, K], [N] -> [M, N]. In float32
    where the native kernels run, as the engine has it; elsewhere in the type of x."""
    if not kernels.takes(x, weight, bias):
        return product(x, weight.t(), bias=bias, more=more)
    out = torch.empty((len(x), len(weight)), dtype=torch.float32)
    return kernels.product(x, weight.t(), bias=bias, more=more, out=out)


def matmul_nt(a: Tensor, b: Tensor) -> Tensor:
    """[M, K] x [N, K] -> [M, N]: a forward product that is wanted in the type of a."""
    return product(a, b.t())


def matmul_nn(a: Tensor, b: Tensor) -> Tensor:
    """[M, K] x [K, N] -> [M, N]: the input gradient g W."""
    return product(a, b)


def matmul_tn(a: Tensor, b: Tensor) -> Tensor:
    """[K, M] x [K, N] -> [M, N]: the weight gradient g^T x."""
    return product(a.t(), b)
