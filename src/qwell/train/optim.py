"""AdamW over weights in bf16, and clipping. Schedules live in `schedule.py`.

What each weight costs in bytes, weight and gradient (4) included:

    states   master    bytes  the update
    f32      split     14     exact: a float32 master, its upper half is the weight itself
    f32      none      12     rounded stochastically to bf16
    int8     split     8      moments in blocks of 256 with a scale each
    int8     none      6      both

Float32 weights need no master. Every element is computed in float32, a slab of elements at a
time, so that nothing as large as the model is ever made. Decoupled weight decay (arXiv:1711.05101)
of matrices alone; 8-bit moments after arXiv:2110.02861; stochastic rounding after arXiv:2010.06192.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qwell.train import kernels
from qwell.train.kernels import Update

SLAB = 1 << 18
"""Elements updated at a time: the temporaries stay in the cache."""

BLOCK = 256
"""Elements that share a scale of 8-bit moments."""

_MASK32, _MASK64 = (1 << 32) - 1, (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """Everything but the learning rate, which the schedule gives each step."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    states: Literal["f32", "int8"] = "f32"
    master: Literal["split", "none"] = "split"
    """How bf16 weights keep small updates: 'split' stores the lower half of a float32 master,
    'none' rounds stochastically."""
    seed: int = 0
    """Of stochastic rounding: the same seed and step give the same bits."""


class AdamW:
    """The optimizer. `named` are the parameters that learn, by checkpoint name."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], config: AdamWConfig) -> None:
        self.config, self.step_count = config, 0
        self.parameters = {name: p for name, p in named if p.requires_grad}
        self.states = {name: self._fresh(_local(p)) for name, p in self.parameters.items()}

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float, *, grad_scale: float = 1.0) -> None:
        """One update; gradients count `grad_scale` times (see `clip_scale`)."""
        self.step_count += 1
        for index, (name, parameter) in enumerate(self.parameters.items()):
            if parameter.grad is None:
                continue
            weight, grad = _local(parameter), _local(parameter.grad).contiguous()
            decay = self.config.weight_decay if parameter.ndim > 1 else 0.0
            update = self._update(lr, decay, grad_scale, index)
            state = self.states[name]
            if kernels.takes(weight, grad) and weight.is_contiguous():
                kernels.adamw(weight, grad, state, update)
            else:
                apply_slowly(weight.view(-1), grad.view(-1), state, update)

    def _update(self, lr: float, decay: float, grad_scale: float, index: int) -> Update:
        b1, b2 = self.config.betas
        t = self.step_count
        seed = mix(mix(mix(self.config.seed) + t) + index)
        return Update(
            b1, b2, self.config.eps, 1 - lr * decay, lr, grad_scale, 1 - b1**t, 1 - b2**t, seed
        )

    def _fresh(self, weight: Tensor) -> dict[str, Tensor]:
        n, where = weight.numel(), weight.device
        state: dict[str, Tensor] = {}
        for moment in ("m", "v"):
            if self.config.states == "int8":
                state[moment] = torch.zeros(n, dtype=torch.uint8, device=where)
                state[f"{moment}_scale"] = torch.zeros(-(-n // BLOCK), device=where)
            else:
                state[moment] = torch.zeros(n, device=where)
        if weight.dtype == torch.bfloat16 and self.config.master == "split":
            state["low"] = torch.zeros(n, dtype=torch.int16, device=where)
        return state

    def state_dict(self) -> dict[str, Tensor]:
        """Every state as a flat map of tensors, `<parameter>.<state>`, for safetensors."""
        found = {f"{n}.{key}": t for n, state in self.states.items() for key, t in state.items()}
        return found | {"step_count": torch.tensor(self.step_count)}

    @torch.no_grad()
    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Takes over what `state_dict` gave. Raises KeyError for a state that is missing."""
        self.step_count = int(saved["step_count"])
        for name, state in self.states.items():
            for key, tensor in state.items():
                tensor.copy_(saved[f"{name}.{key}"])


def _local(tensor: Tensor) -> Tensor:
    """The part of this process of a sharded tensor; the tensor itself elsewhere."""
    local: Any = getattr(tensor, "to_local", None)
    found: Tensor = local() if local else tensor
    return found.detach()


# --- one update, slowly ---------------------------------------------------------------------


def apply_slowly(weight: Tensor, grad: Tensor, state: dict[str, Tensor], u: Update) -> None:
    """The slow twin of `kernels.adamw`: any type, any device, a slab at a time. Flat tensors."""
    for lo in range(0, len(weight), SLAB):
        hi = min(lo + SLAB, len(weight))
        g = grad[lo:hi].float() * u.grad_scale
        m, v = _read(state, "m", lo, hi), _read(state, "v", lo, hi)
        m.mul_(u.beta1).add_(g, alpha=1 - u.beta1)
        v.mul_(u.beta2).addcmul_(g, g, value=1 - u.beta2)
        w = _wide(weight[lo:hi], state, lo, hi).mul_(u.decay)
        w.addcdiv_(m, (v / u.correct2).sqrt_().add_(u.eps), value=-u.lr / u.correct1)
        _write(state, "m", lo, hi, m)
        _write(state, "v", lo, hi, v)
        _store(weight[lo:hi], w, state, u.seed, lo, hi)


def _wide(weight: Tensor, state: dict[str, Tensor], lo: int, hi: int) -> Tensor:
    """The float32 value of weights: with the lower half of the master where there is one."""
    if "low" not in state:
        return weight.float() if weight.dtype != torch.float32 else weight.clone()
    upper = weight.view(torch.int16).to(torch.int32) << 16
    return (upper + state["low"][lo:hi]).view(torch.float32)


def _store(
    weight: Tensor, w: Tensor, state: dict[str, Tensor], seed: int, lo: int, hi: int
) -> None:
    """Rounds float32 weights into their place; the rest of a split master is a signed half."""
    if weight.dtype != torch.bfloat16:
        weight.copy_(w)
        return
    bits = w.view(torch.int32)
    add = torch.tensor(0x8000, dtype=torch.int32) if "low" in state else _noise(seed, lo, hi)
    upper = (bits + add.to(bits.device)) >> 16
    if "low" in state:
        state["low"][lo:hi] = (bits - (upper << 16)).to(torch.int16)
    weight.view(torch.int16).copy_(upper.to(torch.int16))


def _noise(seed: int, lo: int, hi: int) -> Tensor:
    """Random numbers of 16 bits by element: the hash of the native kernel (splitmix's mixing, 32
    bits wide), so both twins round alike."""
    index = torch.arange(lo, hi, dtype=torch.int64)
    x = _times(index & _MASK32, 0x9E3779B1) ^ (seed & _MASK32)
    x = _times(x ^ (x >> 16), 0x7FEB352D) ^ (seed >> 32) ^ (index >> 32)
    x = _times(x ^ (x >> 15), 0x846CA68B)
    return ((x ^ (x >> 16)) >> 16).to(torch.int32)


def _times(x: Tensor, factor: int) -> Tensor:
    """x * factor modulo 2^32, in 64 bits without overflow."""
    return ((x >> 16) * factor % (1 << 16) * (1 << 16) + (x & 0xFFFF) * factor) & _MASK32


def mix(x: int) -> int:
    """splitmix64: spreads the bits of a counter."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


# --- 8-bit moments --------------------------------------------------------------------------
# m: signed, linear in the square root of |m| / scale. v: the fourth root of v / scale, in 255
# steps. So small values of a block keep a few per cent of precision; scale is the block's largest.


def _read(state: dict[str, Tensor], moment: str, lo: int, hi: int) -> Tensor:
    stored = state[moment][lo:hi]
    if stored.dtype != torch.uint8:
        return stored
    scale = _scales(state, moment, lo, hi)
    if moment == "v":
        return (stored.float() / 255).pow_(4).mul_(scale)
    root = (stored.float() - 128) / 127
    return (root * root.abs()).mul_(scale)


def _write(state: dict[str, Tensor], moment: str, lo: int, hi: int, value: Tensor) -> None:
    if state[moment].dtype != torch.uint8:
        state[moment][lo:hi] = value  # a view of itself unless 8-bit: no copy
        return
    padded = torch.nn.functional.pad(value, (0, -len(value) % BLOCK)).view(-1, BLOCK)
    largest = padded.abs().amax(1)
    state[f"{moment}_scale"][lo // BLOCK : -(-hi // BLOCK)] = largest
    part = value / _scales(state, moment, lo, hi).clamp_min(torch.finfo(torch.float32).tiny)
    if moment == "v":
        code = part.sqrt_().sqrt_().mul_(255)
    else:
        code = part.sign() * part.abs().sqrt_() * 127 + 128
    state[moment][lo:hi] = code.round_().to(torch.uint8)


def _scales(state: dict[str, Tensor], moment: str, lo: int, hi: int) -> Tensor:
    blocks = state[f"{moment}_scale"][lo // BLOCK : -(-hi // BLOCK)]
    return blocks.repeat_interleave(BLOCK)[: hi - lo]


# --- clipping --------------------------------------------------------------------------------


@torch.no_grad()
def grad_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Euclidean norm of all gradients together (of this process's parts)."""
    total = 0.0
    for grad in _grads(parameters):
        if kernels.takes(grad):
            total += kernels.square_sum(grad)
            continue
        for slab in grad.split(SLAB * 4):
            total += float(slab.float().square().sum())
    return math.sqrt(total)


def clip_scale(norm: float, max_norm: float) -> float:
    """What gradients are multiplied by so that their norm is at most max_norm."""
    return min(1.0, max_norm / (norm + 1e-6))


def _grads(parameters: Iterable[nn.Parameter]) -> Iterator[Tensor]:
    return (_local(p.grad).reshape(-1) for p in parameters if p.grad is not None)
