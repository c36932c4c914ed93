"""The ops contract over torch tensors: `decoder.py` with autograd under it.

Weights are Modules (`modules.py`), so every op that opens one calls it: hooks of FSDP, LoRA and
compile fire there. A Batch carries NumPy arrays; they become tensors on the device of the weights.
Sequences of a batch never see one another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qwell.model.batch import Batch
from qwell.model.weights import Rope
from qwell.train import functions, kernels

Angles = tuple[Tensor, Tensor]


class TorchOps:
    """The ops in torch. recompute: a layer keeps its input alone and runs again in the backward
    pass (gradient checkpointing)."""

    def __init__(self, head_dim: int, *, recompute: bool = False) -> None:
        self.head_dim, self.recompute = head_dim, recompute
        self.device, self.dtype = torch.device("cpu"), torch.float32  # of the weights
        self.still = torch.ones(head_dim)  # 1 for the channels of keys that RoPE hardly turns

    def block(self, fn: Callable[..., Tensor], w: Any, *args: Any) -> Tensor:
        y: Tensor = w(fn, self, *args)
        return y

    def angles(self, rope: Rope, batch: Batch) -> Angles:
        self.still = self._tensor(rope.still(np.ones(self.head_dim, np.float32)))
        angle = np.outer(batch.positions.astype(np.float32), rope.inv_freq)  # as the reference
        return self._tensor(np.cos(angle)), self._tensor(np.sin(angle))

    def embed(self, batch: Batch, w: Any) -> Tensor:
        x: Tensor = w(self._tensor(batch.input_ids).long())
        return x.float()  # the residual stream: in bf16 its roundings would add up over the layers

    def rms_norm(self, x: Tensor, w: Any) -> Tensor:
        y: Tensor = w(x)
        return y

    def linear(self, x: Tensor, w: Any) -> Tensor:
        y: Tensor = w(x)
        return y

    def split_heads(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1, self.head_dim)

    def rope(self, x: Tensor, angles: Angles) -> Tensor:
        y: Tensor = functions.Rope.apply(x, *angles)
        return y

    def attention(self, q: Tensor, k: Tensor, v: Tensor, batch: Batch, w: Any) -> Tensor:
        assert batch.kv is None, "training keeps no cache"
        # bf16 rounds keys: what all of them share goes before, as in the engine (Rope.still).
        if self.dtype != torch.float32 and w.k_norm is None and w.k_proj.bias is not None:
            k = k - w.k_proj.bias.detach().float().view(-1, self.head_dim) * self.still
        q, k, v = (x.to(self.dtype) for x in (q, k, v))
        if kernels.takes(q, k, v):
            splits = torch.from_numpy(batch.row_splits.astype(np.int32))
            y: Tensor = functions.Attention.apply(q, k, v, splits)
            return y.view(len(q), -1)
        return ragged_attention(q, k, v, batch.spans()).reshape(len(q), -1)

    def silu_mul(self, gate: Tensor, up: Tensor) -> Tensor:
        y: Tensor = functions.SiluMul.apply(gate, up, self.dtype)
        return y

    def select(self, x: Tensor, batch: Batch) -> Tensor:
        return x[self._tensor(batch.out_rows).long()]

    def _tensor(self, array: Any) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)


def ragged_attention(q: Tensor, k: Tensor, v: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """q [T, N, H], k and v [T, K, H] -> [T, N, H]: causal, every span for itself."""
    group = q.shape[1] // k.shape[1]
    if group > 1:  # the flash kernel of the CPU wants equal heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    parts = [_attend(q[lo:hi], k[lo:hi], v[lo:hi]) for lo, hi in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One sequence, [n, N, H] each -> [n, N, H]."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1)
