"""How far one set of logits is from another, row by row and summed up.

The measures are those of llama.cpp's perplexity tool, so figures can be put side by side: KL in
nats, the same likeliest token, perplexity. All arithmetic on probabilities is in float64, where a
KL of 1e-3 keeps ten digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

CLEAR_MARGIN = 0.5
"""Logits between the first and the second choice from which a flip is no rounding accident."""

_SLAB = 16  # rows at a time: 152,000 float64 columns of 16 rows stay within the caches


@dataclass(frozen=True, eq=False)
class Rows:
    """One entry a position, [n] each."""

    kl: F64
    """KL(reference || other) in nats."""
    same_top1: Bools
    margin: F64
    """The reference's first minus its second logit."""
    nll_ref: F64
    """-log p of the token that follows, nan where none does."""
    nll: F64

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        names = ("kl", "same_top1", "margin", "nll_ref", "nll")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The rows of one path, summed up. Shares are 0..1."""

    rows: int
    kl_mean: float
    kl_mean_se: float
    """Its standard error over positions."""
    kl_median: float
    kl_99: float
    kl_99_9: float
    kl_max: float
    top1: float
    clear_rows: int
    """Rows where the reference's margin is above CLEAR_MARGIN."""
    top1_clear: float
    """The same first choice among them; 1.0 if there are none."""
    perplexity_ref: float
    perplexity: float
    perplexity_change: float
    """perplexity / perplexity_ref - 1."""
    perplexity_change_se: float
    """Its standard error over tokens, paired: both models read the same ones."""


def compare(reference: F32, other: F32, targets: NDArray[np.integer]) -> Rows:
    """Rows of two sets of logits [n, V]; targets [n] are the following tokens, -1 for none.

    A row of `other` that holds nan or inf compares as nan, which meets no bar."""
    slabs = [slice(i, i + _SLAB) for i in range(0, len(reference), _SLAB)]
    return Rows.join([_compare(reference[s], other[s], targets[s]) for s in slabs])


def _compare(reference: F32, other: F32, targets: NDArray[np.integer]) -> Rows:
    (p, p_log), (_, q_log) = _softmax(reference), _softmax(other)
    at, first = np.arange(len(targets)), reference.argmax(axis=-1)
    others = reference.copy()
    others[at, first] = -np.inf
    margin = reference[at, first].astype(np.float64) - others.max(axis=-1)
    has_target = targets >= 0
    return Rows(
        kl=(p * (p_log - q_log)).sum(axis=-1),
        same_top1=first == other.argmax(axis=-1),
        margin=margin,
        nll_ref=np.where(has_target, -p_log[at, targets], np.nan),
        nll=np.where(has_target, -q_log[at, targets], np.nan),
    )


def _softmax(logits: F32) -> tuple[F64, F64]:
    """Probabilities and their logarithms."""
    with np.errstate(invalid="ignore"):  # inf - inf: the row becomes nan, as promised
        x = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        e = np.exp(x)
        total = e.sum(axis=-1, keepdims=True)
        return e / total, x - np.log(total)


def summarise(rows: Rows) -> Divergence:
    """The figures of a report. At least two rows must have a target."""
    clear = rows.margin > CLEAR_MARGIN
    follows = ~np.isnan(rows.nll_ref)
    nll_ref, nll = rows.nll_ref[follows], rows.nll[follows]
    ratio = float(np.exp(np.mean(nll - nll_ref)))
    error = float(np.std(nll - nll_ref, ddof=1) / np.sqrt(len(nll)))
    return Divergence(
        rows=len(rows.kl),
        kl_mean=float(np.mean(rows.kl)),
        kl_mean_se=float(np.std(rows.kl, ddof=1) / np.sqrt(len(rows.kl))),
        kl_median=float(np.median(rows.kl)),
        kl_99=float(np.percentile(rows.kl, 99)),
        kl_99_9=float(np.percentile(rows.kl, 99.9)),
        kl_max=float(np.max(rows.kl)),
        top1=float(np.mean(rows.same_top1)),
        clear_rows=int(clear.sum()),
        top1_clear=float(np.mean(rows.same_top1[clear])) if clear.any() else 1.0,
        perplexity_ref=float(np.exp(np.mean(nll_ref))),
        perplexity=float(np.exp(np.mean(nll))),
        perplexity_change=ratio - 1,
        perplexity_change_se=ratio * error,
    )
