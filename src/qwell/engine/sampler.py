"""From a row of logits to one token. NumPy, and the truth a native sampler must meet.

Every filter (top_k, top_p, min_p) keeps a head of the list sorted by (logit descending, id
ascending), so one sorted head answers all three and 150 thousand logits are never sorted whole.
A random number is a function of (seed, position, choice): no generator has a state, and a sample
cannot depend on the requests beside it. Log-probabilities are of the raw logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from qwell.engine.types import F32, SamplingParams
from qwell.errors import QwellError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_MASK64 = 2**64 - 1
_BLOCK = 64  # logits a block maximum stands for
_SPAN = 512  # weights summed at once when one of a whole vocabulary is drawn
_HEAD = 256  # tokens sorted first when only top_p bounds how many are needed


def uniform(seed: int, position: int, choice: int = 0) -> float:
    """A number in [0, 1) with 53 random bits that its three keys alone decide.

    The splitmix64 mixer (Steele, Lea, Flood, OOPSLA 2014) applied to each key in turn:
    mix(mix(mix(seed) + position) + choice), integers modulo 2^64, the top 53 bits taken.
    """
    return (_mix(_mix(_mix(seed) + position) + choice) >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & _MASK64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK64
    return z ^ (z >> 31)


def largest(x: F32, n: int) -> I64:
    """The ids of the n largest of x [V], largest first, ties to the lowest id. V <= n gives all.

    x is NaN-free. A lower bound of the n-th largest comes from maxima of strided blocks; only
    what reaches it is sorted.
    """
    if n <= 0:
        return np.empty(0, np.int64)
    ids = np.arange(len(x)) if n >= len(x) else np.flatnonzero(x >= _bound(x, n))
    return ids[np.argsort(-x[ids], kind="stable")[:n]]


def _bound(x: F32, n: int) -> np.float32:
    """A value that at least n elements of x reach."""
    maxima = x[: len(x) // _BLOCK * _BLOCK].reshape(_BLOCK, -1).max(axis=0, initial=-np.inf)
    few = maxima if len(maxima) >= n else x
    return np.partition(few, -n)[-n]  # type: ignore[no-any-return]


class Sampler:
    """Chooses the tokens of one request, and remembers what its penalties need.

    vocab_size counts the ids a tokenizer knows: the padding rows behind them are never chosen.
    stop_ids are masked until min_tokens tokens are out.
    """

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
        self.params, self.vocab_size = params, vocab_size
        self.seed, self.choice = seed, choice
        self._stop_ids = np.array(sorted(i for i in stop_ids if i < vocab_size), np.int64)
        self._bias_ids = np.array(list(params.logit_bias), np.int64)
        self._bias = np.array(list(params.logit_bias.values()), np.float32)
        self._num_prompt, self._num_output = len(prompt_ids), 0
        self._counts: dict[int, int] = {}  # of the reply
        seen = sorted({i for i in prompt_ids if i < vocab_size})
        self._seen, self._seen_ids = set(seen), np.array(seen, np.int64)  # prompt and reply
        # One copy of a row is spared when its logits are only looked at.
        self._changes = bool(
            params.logit_bias
            or params.repetition_penalty != 1
            or params.presence_penalty
            or params.frequency_penalty
        )

    def sample(self, logits: F32) -> int:
        """The next token for logits [V] float32, which stay as they are.

        Raises QwellError when they are not finite, or nothing is left to choose from.
        """
        x = logits[: self.vocab_size]
        if not np.isfinite(x.max()):  # a NaN anywhere is the maximum
            raise QwellError(
                f"the model computed logits that are not finite at position {self._position}: "
                "check the model file with `qwell verify`"
            )
        if self._changes or self._num_output < self.params.min_tokens:
            x = self._changed(x)
        top = x.max()
        if top == -np.inf:
            raise QwellError("every token is masked: lower min_tokens or remove stop ids")
        token = int(x.argmax()) if self.params.temperature == 0 else self._draw(x, top)
        self._remember(token)
        return token

    @property
    def _position(self) -> int:
        return self._num_prompt + self._num_output

    def _changed(self, x: F32) -> F32:
        """A copy of x with bias, penalties and the min_tokens mask applied, in this order."""
        p, x = self.params, x.copy()
        if p.logit_bias:
            x[self._bias_ids] += self._bias
        if p.repetition_penalty != 1:
            seen = x[self._seen_ids]
            penalty = np.float32(p.repetition_penalty)
            x[self._seen_ids] = np.where(seen > 0, seen / penalty, seen * penalty)
        if self._counts and (p.presence_penalty or p.frequency_penalty):
            ids = np.fromiter(self._counts, np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            x[ids] -= counts * np.float32(p.frequency_penalty) + np.float32(p.presence_penalty)
        if self._num_output < p.min_tokens:
            x[self._stop_ids] = -np.inf
        return x

    def _draw(self, x: F32, top: np.float32) -> int:
        p, u = self.params, uniform(self.seed, self._position, self.choice)
        if p.top_k == 0 and p.top_p == 1 and p.min_p == 0:
            return _pick(_weights(x, top, p.temperature), u)
        ids, weights = _head(x, top, p)
        return int(ids[_pick(weights, u)])

    def _remember(self, token: int) -> None:
        self._num_output += 1
        self._counts[token] = self._counts.get(token, 0) + 1
        if token not in self._seen:
            self._seen.add(token)
            self._seen_ids = np.append(self._seen_ids, token)


def _weights(x: F32, top: np.float32, temperature: float) -> F32:
    """exp((x - top) / temperature): subtracting first, so that no temperature overflows."""
    weights: F32 = x - top
    weights /= np.float32(temperature)  # in place: fresh pages cost more than the arithmetic
    return np.exp(weights, out=weights)


def _pick(weights: F32 | F64, u: float) -> int:
    """The first index up to which the weights exceed u of their sum; never a weight of zero.

    Two levels, spans and then within one: a running sum of a whole vocabulary takes 2 ms.
    """
    whole = len(weights) // _SPAN * _SPAN
    sums = weights[:whole].reshape(-1, _SPAN).sum(axis=1, dtype=np.float64)
    spans = np.cumsum(np.append(sums, weights[whole:].sum(dtype=np.float64)))
    goal = u * spans[-1]
    span = _first_above(spans, goal)
    inside = np.cumsum(weights[span * _SPAN : (span + 1) * _SPAN], dtype=np.float64)
    return span * _SPAN + _first_above(inside, goal - (spans[span - 1] if span else 0))


def _first_above(running: F64, goal: float) -> int:
    """The first index whose running sum is above goal; the sums may miss it by rounding."""
    return int(np.searchsorted(running, min(goal, np.nextafter(running[-1], 0)), side="right"))


def _head(x: F32, top: np.float32, p: SamplingParams) -> tuple[I64, F64]:
    """Ids and weights (relative to the most likely) of what top_k, top_p and min_p keep.

    top_p is a share of what top_k kept; min_p compares with the most likely token.
    """
    n, whole = p.top_k or _HEAD, None
    if not p.top_k and p.top_p < 1:
        whole = float(_weights(x, top, p.temperature).sum(dtype=np.float64))
    while True:
        ids = largest(x, n)
        weights = _weights(x[ids], top, p.temperature).astype(np.float64)
        cumulative = np.cumsum(weights)
        goal = p.top_p * (cumulative[-1] if whole is None else whole)
        enough = bool(p.top_k) or (p.top_p < 1 and cumulative[-1] >= goal)
        if enough or weights[-1] < p.min_p or n >= len(x):
            break
        n *= 8
    keep = int(np.searchsorted(cumulative, goal)) + 1 if p.top_p < 1 else len(ids)
    if p.min_p:
        keep = min(keep, int(np.count_nonzero(weights >= p.min_p)))
    return ids[:keep], weights[:keep]


def log_softmax_at(logits: F32, ids: I64) -> F64:
    """log p of `ids` under the raw distribution of logits [V]: all of V, nothing masked."""
    top = logits.max()
    total = _weights(logits, top, 1).sum(dtype=np.float64)
    chosen: F64 = logits[ids].astype(np.float64) - float(top) - np.log(total)
    return chosen
