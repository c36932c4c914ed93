"""Differentiable functions of one layer, with backward passes written out.

Values are stored in the type of the weights (bf16 or f32) and computed in float32. The results of
linear layers may be float32 beside bf16 weights: what goes into a product is rounded, what comes
out is not, until the next op has used it. So the formula is the engine's. What a backward
pass can compute again cheaply is not kept: the norm keeps its input, silu_mul its two inputs, rope
nothing. Shapes as in `model/ops.py`.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from qwell.train import kernels
from qwell.train.gemm import forward, matmul_nn, matmul_nt, matmul_tn, product

Ctx = Any


class Linear(Function):
    """x [T, in], weight [out, in], bias [out] or None -> x W^T + bias [T, out]."""

    @staticmethod
    def forward(ctx: Ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = _rounded(grad, weight.dtype)
        need_x, need_weight, need_bias = ctx.needs_input_grad
        return (
            matmul_nn(grad, weight) if need_x else None,
            matmul_tn(grad, x) if need_weight else None,
            grad.sum(0, dtype=torch.float32).to(grad.dtype) if need_bias else None,
        )


def _rounded(grad: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient of a result in float32, as its products want it."""
    if grad.dtype == dtype:
        return grad
    if dtype == torch.bfloat16 and kernels.takes(wide=(grad,)):
        return kernels.rounded(grad.contiguous())
    return grad.to(dtype)


class Tied(Function):
    """One matrix [V, D] under its two names, embedding and head. Autograd brings both gradients
    here together, and the rows of the embedding's are added to the head's where it lies: apart,
    they would be two matrices of the vocabulary's size."""

    @staticmethod
    def forward(ctx: Ctx, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(_: Ctx, rows: Tensor | None, grad: Tensor | None) -> Tensor | None:
        if rows is None or grad is None:
            return grad if rows is None else rows.to_dense()
        return grad.add_(rows)


class Rows(Function):
    """Rows ids [T] of a matrix [V, D] -> [T, D], with a sparse gradient for `Tied`."""

    @staticmethod
    def forward(ctx: Ctx, ids: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape = table.shape
        return table[ids]

    @staticmethod
    @once_differentiable
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        found = torch.sparse_coo_tensor(ids[None], grad, ctx.shape, check_invariants=False)
        return None, found


class RmsNorm(Function):
    """x [..., n], weight [n] -> x / sqrt(mean(x^2) + eps) * weight (arXiv:1910.07467), in the
    type of the weight; x may be float32 where that is bf16."""

    @staticmethod
    def forward(ctx: Ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.eps = eps
        if kernels.takes(weight) and x.dtype in (torch.bfloat16, torch.float32) and len(x):
            x = x.contiguous()
            y, rstd = kernels.norm(x, weight, eps)
            ctx.save_for_backward(x, weight, rstd)
            return y
        ctx.save_for_backward(x, weight, None)
        wide = x.float()
        return (wide * _rstd(wide, eps) * weight.float()).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, kept = ctx.saved_tensors
        if kept is not None:
            found = kernels.norm_back(grad.contiguous(), x, weight, kept, ctx.needs_input_grad[1])
            return (*found, None)
        wide, g = x.float(), grad.float()
        rstd = _rstd(wide, ctx.eps)
        normed = wide * rstd
        scaled = g * weight.float()
        inner = (scaled * normed).mean(-1, keepdim=True)
        grad_x = ((scaled - normed * inner) * rstd).to(x.dtype)
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None
        return grad_x, (g * normed).reshape(-1, len(weight)).sum(0).to(weight.dtype), None


def _rstd(wide: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


class Rope(Function):
    """x [T, n, H]; cos, sin [T, H/2] float32: turns the pairs (i, i + H/2) of every head, to
    float32."""

    @staticmethod
    def forward(ctx: Ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _turn(x.float(), cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, sin, -1.0).to(ctx.dtype), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    if kernels.takes(wide=(x,)):
        return kernels.rope(x.contiguous(), cos, sin, sign)
    a, b = x.chunk(2, dim=-1)
    c, s = cos[:, None], sign * sin[:, None]
    return torch.cat([a * c - b * s, b * c + a * s], dim=-1)


class Attention(Function):
    """Causal attention inside every sequence: q [T, N, H], k and v [T, K, H] bf16, splits [S + 1]
    int32 -> [T, N, H]. Native only; `torch_ops.ragged_attention` is its slow twin."""

    @staticmethod
    def forward(ctx: Ctx, q: Tensor, k: Tensor, v: Tensor, splits: Tensor) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out, lse = kernels.attention(q, k, v, splits)
        ctx.save_for_backward(q, k, v, out, lse, splits)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*kernels.attention_back(grad.contiguous(), *ctx.saved_tensors), None)


class SiluMul(Function):
    """gate, up [T, F] -> gate * sigmoid(gate) * up in dtype, in which the two are kept."""

    @staticmethod
    def forward(ctx: Ctx, gate: Tensor, up: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = gate.dtype
        if dtype == torch.bfloat16 and kernels.takes(wide=(gate, up)):
            y, *kept = kernels.silu_mul(gate, up)
            ctx.save_for_backward(*kept)
            return y
        ctx.save_for_backward(gate.to(dtype), up.to(dtype))
        wide = gate.float()
        return (wide * torch.sigmoid(wide) * up.float()).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        if kernels.takes(grad, gate, up):
            return *kernels.silu_mul_back(grad.contiguous(), gate, up, ctx.dtype), None
        wide, g = gate.float(), grad.float()
        sigmoid = torch.sigmoid(wide)
        silu = wide * sigmoid
        slope = sigmoid * (1 + wide - silu)
        return (g * up.float() * slope).to(ctx.dtype), (g * silu).to(ctx.dtype), None


class FrozenLinear(Function):
    """x W^T + bias where nothing of W is learnt; W is a tensor or packed integers."""

    @staticmethod
    def forward(ctx: Ctx, x: Tensor, base: Base, bias: Tensor | None) -> Tensor:
        ctx.base = base
        ctx.dtype = x.dtype
        return forward(x, opened(base, x), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = _rounded(grad, ctx.dtype)
        return matmul_nn(grad, opened(ctx.base, grad)), None, None


class LoraLinear(Function):
    """x W^T + bias + scale (x A^T) B^T with W frozen: keeps x [T, in] and scale x A^T [T, rank].
    W is a tensor, or packed integers that are dequantised here and once more in the backward."""

    @staticmethod
    def forward(
        ctx: Ctx, x: Tensor, base: Base, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        low = matmul_nt(x, a).mul_(scale)
        ctx.save_for_backward(x, low, a, b)
        ctx.base, ctx.scale = base, scale
        return forward(x, opened(base, x), bias, more=(low, b.t()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b = ctx.saved_tensors
        grad = _rounded(grad, x.dtype)
        grad_low = matmul_nn(grad, b).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = product(grad, opened(ctx.base, grad), more=(grad_low, a))
        return grad_x, None, None, matmul_tn(grad_low, x), matmul_tn(grad, low), None


class Dequantised(Protocol):
    """A matrix that is made when it is asked for (`packed.Packed`)."""

    def dequantise(self, dtype: torch.dtype = ...) -> Tensor: ...


Base = Tensor | Dequantised


def opened(base: Base, like: Tensor) -> Tensor:
    """The weights [out, in] in the type of the activations."""
    return base if isinstance(base, Tensor) else base.dequantise(like.dtype)
