"""Differentiable functions of one layer, with backward passes written out.

Values are stored in the type of the weights (bf16 or f32) and computed in float32. What a backward
pass can compute again cheaply is not kept: the norm keeps its input, silu_mul its two inputs, rope
nothing. Shapes as in `model/ops.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from qwell.train.gemm import matmul_nn, matmul_nt, matmul_tn

Ctx = Any


class Linear(Function):
    """x [T, in], weight [out, in], bias [out] or None -> x W^T + bias [T, out]."""

    @staticmethod
    def forward(ctx: Ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        y = matmul_nt(x, weight)
        return y if bias is None else y.add_(bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        return (
            matmul_nn(grad, weight) if need_x else None,
            matmul_tn(grad, x) if need_weight else None,
            grad.sum(0, dtype=torch.float32).to(grad.dtype) if need_bias else None,
        )


class RmsNorm(Function):
    """x [..., n], weight [n] -> x / sqrt(mean(x^2) + eps) * weight (arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        wide = x.float()
        return (wide * _rstd(wide, eps) * weight.float()).to(x.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
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
    """x [T, n, H]; cos, sin [T, H/2] float32: turns the pairs (i, i + H/2) of every head."""

    @staticmethod
    def forward(ctx: Ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.float().chunk(2, dim=-1)
    c, s = cos[:, None], sin[:, None]
    return torch.cat([a * c - b * s, b * c + a * s], dim=-1).to(x.dtype)


class SiluMul(Function):
    """gate, up [T, F] -> gate * sigmoid(gate) * up."""

    @staticmethod
    def forward(ctx: Ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        wide = gate.float()
        return (wide * torch.sigmoid(wide) * up.float()).to(gate.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        wide, g = gate.float(), grad.float()
        sigmoid = torch.sigmoid(wide)
        silu = wide * sigmoid
        slope = sigmoid * (1 + wide - silu)
        return (g * up.float() * slope).to(gate.dtype), (g * silu).to(up.dtype)


class LoraLinear(Function):
    """x W^T + bias + scale (x A^T) B^T with W frozen: keeps x [T, in] and x A^T [T, rank]."""

    @staticmethod
    def forward(
        ctx: Ctx, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        low = x @ a.t()
        ctx.save_for_backward(x, low, weight, a, b)
        ctx.scale = scale
        y = matmul_nt(x, weight)
        if bias is not None:
            y += bias
        return y.addmm_(low, b.t(), alpha=scale)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, low, weight, a, b = ctx.saved_tensors
        grad_low = (grad @ b).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = matmul_nn(grad, weight).addmm_(grad_low, a)
        return grad_x, None, None, grad_low.t() @ x, (grad.t() @ low).mul_(ctx.scale), None
