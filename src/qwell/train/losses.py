"""Pure losses over final hidden states. Logits exist a chunk at a time.

The head of Qwen2.5 has 151,936 rows: logits of a thousand tokens are 0.6 GB in float32. So each
loss walks the rows in chunks, makes the logits of one chunk, what it needs of them, and their
gradient in place. Rows without a target never come here: the decoder selects them away.

Letters: R output rows, D hidden_size, V vocab_size. Source of the idea: Liger Kernel's fused
linear cross-entropy, arXiv:2410.10989.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from qwell.train import kernels
from qwell.train.gemm import product

CHUNK_ROWS = 256


def cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    scale: float = 1.0,
    chunk_rows: int = CHUNK_ROWS,
) -> Tensor:
    """scale * sum over rows of -log p(target): float32 scalar.

    hidden [R, D], head [V, D], targets [R] int64. Give scale = 1 / (targets of the whole step) and
    add up micro-batches: every token counts the same however the step is cut. The gradients are
    made in the forward pass, while the logits of a chunk are there."""
    loss: Tensor = _CrossEntropy.apply(hidden, head, targets, scale, chunk_rows)
    return loss


def token_logprobs(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk_rows: int = CHUNK_ROWS,
) -> Tensor:
    """log p(target) of every row, [R] float32, of softmax(logits / temperature).

    For losses of many tokens together (preferences, policy gradients). The gradient of a row is
    not known in the forward pass, so the backward pass makes the logits again."""
    found: Tensor = _TokenLogprobs.apply(hidden, head, targets, temperature, chunk_rows)
    return found


class _CrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, scale: float, chunk_rows: int
    ) -> Tensor:
        need_hidden, need_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_head = torch.empty_like(head) if need_head else None
        room = _room(hidden, head, chunk_rows)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for x, target, rows in _chunks(hidden, targets, chunk_rows):
            logits = _logits(x, head, room)
            nll, grad = softmax_grad(
                logits, target, scale if need_hidden or need_head else 0.0, head.dtype
            )
            total += nll.sum()
            if grad_hidden is not None:
                product(grad, head, out=grad_hidden[rows])
            if grad_head is not None:
                product(grad.t(), x, out=grad_head, add=rows.start > 0)
        if grad_head is not None and not len(hidden):
            grad_head.zero_()
        ctx.grads = grad_hidden, grad_head
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("cross_entropy gives its gradients once: no second backward pass")
        grads, ctx.grads = ctx.grads, None  # autograd may add to what nobody else holds
        if float(grad) != 1.0:
            for g in grads:
                if g is not None:
                    g.mul_(grad)
        return (*grads, None, None, None)


class _TokenLogprobs(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, chunk_rows: int
    ) -> Tensor:
        ctx.save_for_backward(hidden, head, targets)
        ctx.temperature, ctx.chunk_rows = temperature, chunk_rows
        out = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        room = _room(hidden, head, chunk_rows)
        for x, target, rows in _chunks(hidden, targets, chunk_rows):
            logits = _logits(x, head, room) / temperature
            out[rows] = logits.log_softmax(-1).gather(1, target[:, None])[:, 0]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, targets = ctx.saved_tensors
        grad_hidden, room = torch.empty_like(hidden), _room(hidden, head, ctx.chunk_rows)
        grad_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        for x, target, rows in _chunks(hidden, targets, ctx.chunk_rows):
            slope = (_logits(x, head, room) / ctx.temperature).softmax(-1)
            slope[torch.arange(len(x)), target] -= 1
            slope *= -grad[rows, None] / ctx.temperature
            slope = slope.to(hidden.dtype)
            product(slope, head, out=grad_hidden[rows])
            if grad_head is not None:
                product(slope.t(), x, out=grad_head, add=True)
        return grad_hidden, grad_head, None, None, None


def softmax_grad(
    logits: Tensor, targets: Tensor, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """-log p(target) [n] float32, and scale * (softmax - one-hot) [n, V] in dtype, which may take
    the place of the logits [n, V] float32; without a meaning where scale is 0."""
    if dtype == torch.bfloat16 and kernels.core() is not None and logits.device.type == "cpu":
        return kernels.cross_entropy(logits, targets, scale)
    lse = logits.logsumexp(-1)
    rows = torch.arange(len(logits), device=logits.device)
    nll = lse - logits[rows, targets]
    slope = logits.sub_(lse[:, None]).exp_()
    slope[rows, targets] -= 1
    return nll, slope.mul_(scale).to(dtype)


def _room(hidden: Tensor, head: Tensor, chunk_rows: int) -> Tensor:
    """Where the logits of a chunk go, float32: rounded to bf16, a logit of 20 is off by 0.06."""
    rows = min(chunk_rows, len(hidden))
    return torch.empty((rows, len(head)), dtype=torch.float32, device=head.device)


def _logits(x: Tensor, head: Tensor, room: Tensor) -> Tensor:
    """[n, V] float32, in the first rows of room."""
    out = room[: len(x)]
    if kernels.takes(x, head):
        return kernels.product(x, head.t(), out=out)
    if x.device.type == "cpu":
        return torch.mm(x.float(), head.float().t(), out=out)
    return out.copy_(x @ head.t())


def _chunks(hidden: Tensor, targets: Tensor, chunk_rows: int) -> list[tuple[Tensor, Tensor, slice]]:
    spans = [slice(lo, lo + chunk_rows) for lo in range(0, len(hidden), chunk_rows)]
    return [(hidden[rows], targets[rows], rows) for rows in spans]
