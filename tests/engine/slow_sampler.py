"""The rule of csrc/sampler.h again, slow and obvious: NumPy and Python integers, no core.

Sorts everything, keeps everything, and must meet the core token for token: each float operation
here is one IEEE rounding in the order the rule fixes, and every sum is of integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from qwell.engine.types import F32, SamplingParams

I64 = NDArray[np.int64]

NOT_FINITE, NOTHING_LEFT = -1, -2
UNIT_BITS = 30
_MASK64 = 2**64 - 1


def mix(z: int) -> int:
    """The splitmix64 mixer (Steele, Lea, Flood, OOPSLA 2014)."""
    z = (z + 0x9E3779B97F4A7C15) & _MASK64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK64
    return z ^ (z >> 31)


def bits(seed: int, position: int, choice: int = 0, attempt: int = 0) -> int:
    """53 random bits that their keys alone decide."""
    z = mix(mix(mix(seed) + position) + choice)
    return (mix(z + attempt) if attempt else z) >> 11


def largest(x: F32, n: int) -> I64:
    """The ids of the n largest of x [V], largest first, ties to the lowest id."""
    return np.argsort(-x, kind="stable")[:n]


def fma(a: F32, b: F32, c: np.float32) -> F32:
    """a * b + c with one rounding. The product is exact in float64; the sum is rounded to odd
    there (an inexact one gets an odd last bit), which makes the second rounding the only one."""
    p = a.astype(np.float64) * b
    s = p + c
    t = s - p
    error = (p - (s - t)) + (c - t)
    even = s.view(np.int64) % 2 == 0
    s = np.where((error != 0) & even, np.nextafter(s, np.copysign(np.inf, error)), s)
    return s.astype(np.float32)


def weights(x: F32, top: float, temperature: float) -> I64:
    """2^30 * exp((x - top) / temperature) as integers, by the polynomial of csrc/kernels.h."""
    scale = np.float32(1.4426950408889634 / temperature)
    y = np.maximum((x - np.float32(top)) * scale, np.float32(-32))
    n = np.rint(y)
    f, p = y - n, np.float32(0.0013264727)
    for c in (0.009671513, 0.055507336, 0.24022242, 0.693147, 1.0):
        p = fma(p, f, np.float32(c))
    return np.rint(np.ldexp(p, (n + UNIT_BITS).astype(np.int32))).astype(np.int64)


class SlowSampler:
    """The face of qwell._core.Sampler, with the parameters as they were asked for."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        *,
        vocab_size: int,
        seed: int,
        stop_ids: Iterable[int] = (),
        choice: int = 0,
    ) -> None:
        self.params, self.prompt, self.reply = params, list(prompt_ids), list[int]()
        self.vocab_size, self.seed, self.choice = vocab_size, seed, choice
        self.stop_ids = [i for i in stop_ids if i < vocab_size]

    def push(self, token: int) -> None:
        self.reply.append(token)

    @property
    def position(self) -> int:
        return len(self.prompt) + len(self.reply)

    def sample(self, logits: F32, mask: NDArray[np.int32] | None = None) -> int:
        """The next token, or NOT_FINITE or NOTHING_LEFT."""
        raw = logits[: self.vocab_size]
        if not np.isfinite(raw.max()):
            return NOT_FINITE
        x = self._changed(raw)
        if mask is not None:
            allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(x)]
            x = np.where(allowed == 1, x, np.float32(-np.inf))
        if x.max() == -np.inf:
            return NOTHING_LEFT
        if not np.isfinite(x.max()):
            return NOT_FINITE
        return int(largest(x, 1)[0]) if self.params.temperature == 0 else self._draw(x)

    def _changed(self, x: F32) -> F32:
        p, x, one = self.params, x.copy(), np.float32
        for i, bias in p.logit_bias.items():
            x[i] += one(bias)
        for i in {*self.prompt, *self.reply}:
            if i < self.vocab_size and p.repetition_penalty != 1:
                penalty = one(p.repetition_penalty)
                x[i] = x[i] / penalty if x[i] > 0 else x[i] * penalty
        for i in set(self.reply):
            x[i] -= one(self.reply.count(i)) * one(p.frequency_penalty) + one(p.presence_penalty)
        if len(self.reply) < p.min_tokens:
            x[self.stop_ids] = -np.inf
        return x

    def _draw(self, x: F32) -> int:
        p, kept = self.params, np.zeros(len(x), bool)
        kept[largest(x, p.top_k or len(x))] = True
        w = np.where(kept, weights(x, x.max(), p.temperature), 0)
        goal = p.top_p * float(w.sum())
        order = np.argsort(-w, kind="stable")
        ahead_of = np.empty(len(x), np.int64)
        ahead_of[order] = np.cumsum(w[order]) - w[order]
        w = np.where(w >= p.min_p * 2**UNIT_BITS, w, 0)
        for attempt in range(10_000):
            random = bits(self.seed, self.position, self.choice, attempt)
            target = random * int(w.sum()) >> 53
            token = int(np.searchsorted(np.cumsum(w), target, side="right"))
            if p.top_p == 1 or ahead_of[token] < goal:
                return token
            rank = np.empty(len(x), np.int64)
            rank[order] = np.arange(len(x))
            w = np.where(rank < rank[token], w, 0)
        raise AssertionError("no draw was kept")
