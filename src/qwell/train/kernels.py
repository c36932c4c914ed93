"""Native kernels over torch tensors: who may take them, and the calls.

A kernel takes bf16 tensors on the CPU (some float32 too, as they say), contiguous but for the
operands of `product`; everything else goes to the slow twins in `functions.py`, `losses.py` and
`optim.py`. Both compute in float32 and store bf16; tests tie them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qwell.native.train import train_kernels

if TYPE_CHECKING:
    from qwell._core import TrainKernels

_made: dict[tuple[int, int, str | None], TrainKernels | None] = {}
_off = 0
_form: str | None = None


@contextmanager
def slow_twins() -> Iterator[None]:
    """Inside, nothing is native: for tests."""
    global _off  # noqa: PLW0603
    _off += 1
    try:
        yield
    finally:
        _off -= 1


@contextmanager
def forced(form: str) -> Iterator[None]:
    """Inside, kernels are of this form, one of `qwell.native.train.train_forms`: for tests."""
    global _form  # noqa: PLW0603
    before, _form = _form, form
    try:
        yield
    finally:
        _form = before


def core() -> TrainKernels | None:
    """The kernels over as many threads as torch uses, or None where they do not run. A forked
    process makes its own: the threads of its parent's are not there."""
    if _off:
        return None
    key = os.getpid(), torch.get_num_threads(), _form
    if key not in _made:
        _made.clear()
        _made[key] = train_kernels(*key[1:])
    return _made[key]


def takes(*tensors: Tensor | None, wide: tuple[Tensor, ...] = ()) -> bool:
    """Whether these tensors go to the native kernels; those of `wide` may be float32."""
    given = [t for t in tensors if t is not None]
    types = {t.dtype for t in given} | {t.dtype for t in wide} - {torch.float32}
    return (
        types <= {torch.bfloat16}
        and all(t.device.type == "cpu" and t.numel() > 0 for t in (*given, *wide))
        and core() is not None
    )


def _core() -> TrainKernels:
    found = core()
    assert found is not None, "ask takes() first"
    return found


def product(
    a: Tensor,
    b: Tensor,
    *,
    bias: Tensor | None = None,
    more: tuple[Tensor, Tensor] | None = None,
    out: Tensor | None = None,
    add: bool = False,
) -> Tensor:
    """[m, k] x [k, n] (+ bias [n]) -> [m, n] bf16, float32 if `out` is; views are read as they
    lie, by rows or by columns.

    more: another pair [m, k2] x [k2, n] in the same sums. out: where the result goes, contiguous;
    add: on top of what is there, rounded once."""
    (m, k), n = a.shape, b.shape[1]
    assert b.shape[0] == k and (bias is None or bias.is_contiguous())
    a, b = _one_axis(a), _one_axis(b)
    a2, b2 = (a, b) if more is None else (_one_axis(more[0]), _one_axis(more[1]))
    k2 = 0 if more is None else a2.shape[1]
    assert more is None or (a2.shape[0] == m and b2.shape == (k2, n))
    c = torch.empty((m, n), dtype=torch.bfloat16) if out is None else out
    assert c.shape == (m, n) and c.is_contiguous()
    wide = c.dtype == torch.float32
    assert wide or c.dtype == torch.bfloat16
    operands = [(t.data_ptr(), t.stride(0), t.stride(1)) for t in (a, b, a2, b2)]
    where = 0 if bias is None else bias.data_ptr(), c.data_ptr()
    _core().gemm(
        *operands[0], *operands[1], *operands[2], *operands[3], *where, m, n, k, k2, add, wide
    )
    return c


def _one_axis(x: Tensor) -> Tensor:
    return x if 1 in x.stride() else x.contiguous()


def norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x [..., n] contiguous, bf16 or float32 -> the normed rows in bf16, and 1 / rms of each,
    float32."""
    y, n = torch.empty_like(x, dtype=weight.dtype), len(weight)
    rstd = torch.empty(x.numel() // n, dtype=torch.float32)
    _core().norm(
        x.data_ptr(),
        weight.data_ptr(),
        y.data_ptr(),
        rstd.data_ptr(),
        len(rstd),
        n,
        eps,
        x.dtype == torch.float32,
    )
    return y, rstd


def norm_back(
    grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, need_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x, in its type, and of the weight; grad is bf16, contiguous."""
    grad_x, n = torch.empty_like(x), len(weight)
    grad_weight = torch.zeros(n, dtype=torch.float32) if need_weight else None
    _core().norm_back(
        grad.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        rstd.data_ptr(),
        grad_x.data_ptr(),
        0 if grad_weight is None else grad_weight.data_ptr(),
        len(rstd),
        n,
        x.dtype == torch.float32,
    )
    return grad_x, None if grad_weight is None else grad_weight.to(weight.dtype)


def rope(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """x [T, n, H] contiguous, cos and sin [T, H/2], all float32 -> the same; sign -1 turns back."""
    y = torch.empty_like(x)
    _core().rope(
        x.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        y.data_ptr(),
        len(x),
        x.shape[1],
        x.shape[2] // 2,
        sign,
    )
    return y


def silu_mul(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both contiguous, in bf16 or both in float32 -> the result, and gate and up as the backward
    pass wants them, all bf16."""
    assert gate.is_contiguous() and up.is_contiguous() and gate.dtype == up.dtype
    y = torch.empty_like(gate, dtype=torch.bfloat16)
    kept, rounded = (gate, up), (0, 0)
    if gate.dtype == torch.float32:
        kept = torch.empty_like(y), torch.empty_like(y)
        rounded = kept[0].data_ptr(), kept[1].data_ptr()
    _core().silu_mul(gate.data_ptr(), up.data_ptr(), y.data_ptr(), y.numel(), *rounded)
    return y, *kept


def silu_mul_back(
    grad: Tensor, gate: Tensor, up: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up in dtype, bf16 or float32; grad, gate and up are bf16."""
    grad_gate, grad_up = torch.empty_like(gate, dtype=dtype), torch.empty_like(up, dtype=dtype)
    _core().silu_mul_back(
        grad.data_ptr(),
        gate.data_ptr(),
        up.data_ptr(),
        grad_gate.data_ptr(),
        grad_up.data_ptr(),
        grad.numel(),
        dtype == torch.float32,
    )
    return grad_gate, grad_up


def rounded(x: Tensor) -> Tensor:
    """Float32, contiguous -> bf16."""
    y = torch.empty_like(x, dtype=torch.bfloat16)
    _core().round(x.data_ptr(), x.numel(), y.data_ptr())
    return y


def attention(q: Tensor, k: Tensor, v: Tensor, splits: Tensor) -> tuple[Tensor, Tensor]:
    """q [T, N, H], k and v [T, K, H] contiguous, splits [S + 1] int32 -> [T, N, H], and the
    logarithm of every row's sum of exponentials [T, N] float32."""
    out = torch.empty_like(q)
    lse = torch.empty(q.shape[:2], dtype=torch.float32)
    _attention(q, k, v, out, lse, splits, (0, 0, 0, 0))
    return out, lse


def attention_back(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, splits: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, bf16; grad [T, N, H] is that of out, contiguous."""
    made = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    addresses = (grad.data_ptr(), *(t.data_ptr() for t in made))
    _attention(q, k, v, out, lse, splits, addresses)
    return made


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    splits: Tensor,
    backward: tuple[int, ...],
) -> None:
    _core().attention(
        q.data_ptr(),
        k.data_ptr(),
        v.data_ptr(),
        out.data_ptr(),
        lse.data_ptr(),
        splits.data_ptr(),
        len(splits) - 1,
        q.shape[1],
        k.shape[1],
        q.shape[2],
        backward[0],
        backward[1],
        backward[2],
        backward[3],
    )


def cross_entropy(logits: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """-log p(target) of every row of logits [n, V] float32, and scale * (softmax - one-hot) in
    bf16, which takes the place of the logits; if scale is 0 they stay."""
    n, V = logits.shape
    nll = torch.empty(n, dtype=torch.float32)
    _core().cross_entropy(logits.data_ptr(), targets.data_ptr(), nll.data_ptr(), n, V, scale)
    return nll, logits.view(torch.bfloat16)[:, :V]


def square_sum(x: Tensor) -> float:
    """The sum of the squares of all elements."""
    total: float = _core().square_sum(x.data_ptr(), x.numel())
    return total


@dataclass(frozen=True)
class Update:
    """The numbers of one AdamW update of one parameter."""

    beta1: float
    beta2: float
    eps: float
    decay: float
    """What the weight is multiplied by: 1 - lr * weight_decay."""
    lr: float
    grad_scale: float
    correct1: float
    """1 - beta1^t, the correction of the first moment's bias; correct2 likewise."""
    correct2: float
    seed: int


def adamw(weight: Tensor, grad: Tensor, state: dict[str, Tensor], update: Update) -> None:
    """One update of a parameter and its states, all contiguous (see optim.py for the states)."""
    where = [
        state[key].data_ptr() if key in state else 0
        for key in ("m", "v", "m_scale", "v_scale", "low")
    ]
    _core().adamw(weight.data_ptr(), grad.data_ptr(), weight.numel(), *where, *astuple(update))


def unpacks(codes: Tensor, group: int) -> bool:
    """Whether `dequantise` takes a matrix of these codes."""
    return group % 16 == 0 and codes.device.type == "cpu" and core() is not None


def dequantise(
    codes: Tensor,
    scale: Tensor,
    minimum: Tensor | None,
    *,
    bits: int,
    zero: int,
    group: int,
    shape: tuple[int, int],
) -> Tensor:
    """The bf16 matrix [out, in] of packed integers (see packed.py for the layout)."""
    out = torch.empty(shape, dtype=torch.bfloat16)
    _core().dequantise(
        codes.data_ptr(),
        scale.data_ptr(),
        0 if minimum is None else minimum.data_ptr(),
        bits,
        zero,
        group,
        *shape,
        out.data_ptr(),
    )
    return out
