"""NumPy float32: every op as its formula. Slow, obvious, the truth the other back ends meet.

Weights are dequantised once and kept; a 0.5B takes 2.5 GB. `taps`, when given a list, collects
the result of every op in call order, so a layer of another back end can be compared by `zip`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwell.config import ModelConfig
from qwell.model import decoder
from qwell.model.batch import PAGE_SIZE, Batch
from qwell.model.weights import Attention, Embedding, Linear, Norm, Rope, Stored, Weights

F32 = NDArray[np.float32]
Angles = tuple[F32, F32]


class ReferenceKV:
    """Pages of keys and values in float32: [layers, 2, pages, PAGE_SIZE, K, H]."""

    def __init__(self, config: ModelConfig, num_pages: int) -> None:
        heads = (config.num_kv_heads, config.head_dim)
        self.data = np.zeros((config.num_layers, 2, num_pages, PAGE_SIZE, *heads), np.float32)

    def append(
        self, layer: int, pages: NDArray[np.int32], past: int, k: F32, v: F32
    ) -> tuple[F32, F32]:
        """Stores rows past .. past + n of one sequence; gives all its keys and values so far."""
        at = np.arange(past, past + len(k))
        for which, new in enumerate((k, v)):
            self.data[layer, which, pages[at // PAGE_SIZE], at % PAGE_SIZE] = new
        used = pages[: -(-(past + len(k)) // PAGE_SIZE)]
        whole = self.data[layer][:, used].reshape(2, -1, *k.shape[1:])[:, : past + len(k)]
        return whole[0], whole[1]


class Reference:
    """The ops in NumPy."""

    def __init__(self, config: ModelConfig, taps: list[F32] | None = None) -> None:
        self.head_dim, self.taps = config.head_dim, taps
        self._floats: dict[int, F32] = {}

    def open(self, stored: Stored) -> F32:
        """The float32 numbers of a stored tensor, dequantised once."""
        if id(stored) not in self._floats:
            self._floats[id(stored)] = stored.float32()
        return self._floats[id(stored)]

    def _tap(self, value: F32) -> F32:
        if self.taps is not None:
            self.taps.append(value)
        return value

    def block(self, fn: Callable[..., F32], w: Any, *args: Any) -> F32:
        return fn(self, w, *args)

    def angles(self, rope: Rope, batch: Batch) -> Angles:
        angle = np.outer(batch.positions.astype(np.float32), rope.inv_freq)  # float32
        return np.cos(angle), np.sin(angle)

    def embed(self, batch: Batch, w: Embedding) -> F32:
        return self._tap(self.open(w.weight)[batch.input_ids])

    def select(self, x: F32, batch: Batch) -> F32:
        return self._tap(x[batch.out_rows])

    def rms_norm(self, x: F32, w: Norm) -> F32:
        mean: F32 = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
        root: F32 = np.sqrt(mean + np.float32(w.eps))
        return self._tap(x / root * self.open(w.weight))

    def linear(self, x: F32, w: Linear) -> F32:
        y = x @ self.open(w.weight).T
        if w.bias is not None:
            y = y + self.open(w.bias)
        if w.adapter is not None:
            y = y + (x @ self.open(w.adapter.a).T) @ self.open(w.adapter.b).T
        return self._tap(y)

    def split_heads(self, x: F32) -> F32:
        return x.reshape(len(x), -1, self.head_dim)

    def rope(self, x: F32, angles: Angles) -> F32:
        cos, sin = (table[:, None] for table in angles)
        a, b = np.split(x, 2, axis=-1)
        return self._tap(np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1))

    def silu_mul(self, gate: F32, up: F32) -> F32:
        # exp(-|x|) cannot overflow; both branches are the logistic function.
        e = np.exp(-np.abs(gate))
        sigmoid = np.where(gate >= 0, 1 / (1 + e), e / (1 + e))
        return self._tap(gate * sigmoid * up)

    def attention(self, q: F32, k: F32, v: F32, batch: Batch, w: Attention) -> F32:
        out = np.empty_like(q)
        for s, (lo, hi) in enumerate(batch.spans()):
            past, keys, values = int(batch.past[s]), k[lo:hi], v[lo:hi]
            if batch.kv is not None:
                assert batch.page_table is not None
                keys, values = batch.kv.append(w.layer, batch.page_table[s], past, keys, values)
            out[lo:hi] = _attend(q[lo:hi], keys, values)
        return self._tap(out.reshape(len(q), -1))


def _attend(q: F32, k: F32, v: F32) -> F32:
    """[n, N, H] over [m, K, H]: the last n of m positions ask; causal."""
    n, m, group = len(q), len(k), q.shape[1] // k.shape[1]
    visible = np.arange(m)[None] <= np.arange(m - n, m)[:, None]  # [n, m]
    out = np.empty_like(q)
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head // group].T * np.float32(q.shape[2] ** -0.5)
        scores = np.where(visible, scores, np.float32(-np.inf))
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, head] = p @ v[:, head // group] / p.sum(axis=-1, keepdims=True)
    return out


class ReferenceModel:
    """The reference as a back end an engine can run: same face as `native.NativeModel`."""

    max_rows = 1 << 30  # NumPy sets no limit
    kv_dtype = "float32"
    roles_differ = True  # an engine over it keeps pages as it does over the strictest back end
    read_bytes = None

    def __init__(self, weights: Weights) -> None:
        self.config, self.weights = weights.config, weights
        self.ops = Reference(weights.config)

    @property
    def num_threads(self) -> int:
        """As many as NumPy's BLAS takes."""
        return len(os.sched_getaffinity(0))

    def new_kv(self, num_pages: int) -> ReferenceKV:
        return ReferenceKV(self.config, num_pages)

    def step(self, batch: Batch) -> F32:
        """One step: appends to batch.kv, gives logits [R, V] float32."""
        return decoder.logits(self.ops, self.weights, batch)
