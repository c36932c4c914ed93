"""From logits to tokens: the face of the core's sampler (csrc/sampler.h states the rule).

One call chooses for all rows of a step; a row's choice depends on its own request alone.
Log-probabilities are of the raw logits. Knows no scheduling and no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from qwell import _core
from qwell.engine.types import F32, SamplingParams
from qwell.errors import QwellError

F64 = NDArray[np.float64]
Mask = NDArray[np.int32]
"""Tokens that a grammar allows: bit t % 32 of word t // 32 is set."""


def new_sampler(
    params: SamplingParams,
    prompt_ids: Sequence[int],
    *,
    vocab_size: int,
    seed: int,
    stop_ids: Iterable[int] = (),
    choice: int = 0,
) -> _core.Sampler:
    """What chooses the tokens of one request; `push` tells it the token its reply really got.

    vocab_size counts the ids a tokenizer knows: the padding rows behind them are never chosen.
    stop_ids are masked until min_tokens tokens are out.
    """
    return _core.Sampler(
        vocab=vocab_size,
        prompt=np.array(prompt_ids, np.int32),
        temperature=params.temperature,
        top_p=params.top_p,
        min_p=params.min_p,
        top_k=params.top_k,
        repetition=params.repetition_penalty,
        presence=params.presence_penalty,
        frequency=params.frequency_penalty,
        seed=int(seed) % 2**64,
        choice=choice,
        min_tokens=params.min_tokens,
        bias=list(params.logit_bias.items()),
        stop_ids=list(stop_ids),
    )


def sample(
    samplers: Sequence[_core.Sampler],
    logits: F32,
    masks: Sequence[Mask | None] | None = None,
    num_threads: int = 1,
) -> list[int | QwellError]:
    """The next token of each row of logits [R, V] float32, which stay as they are.

    masks: of each row, int32 words over its sampler's vocabulary, or None. A row whose logits are
    not finite, or which has nothing left to choose from, gets an error in place of a token.
    """
    masks = [None] * len(samplers) if masks is None else masks
    tokens = _core.sample(samplers, logits, masks, num_threads)
    return [
        token if token >= 0 else _fault(token, sampler.position)
        for token, sampler in zip(tokens, samplers, strict=True)
    ]


def not_finite(position: int) -> QwellError:
    """The fault of a row with a logit that is NaN or +infinity."""
    return QwellError(
        f"the model computed logits that are not finite at position {position}: "
        "check the model file with `qwell verify`"
    )


def _fault(code: int, position: int) -> QwellError:
    if code == _core.NOT_FINITE:
        return not_finite(position)
    return QwellError(
        f"every token is masked at position {position}: lower min_tokens, remove stop ids, "
        "or widen the grammar"
    )


def largest(x: F32, n: int) -> list[int]:
    """The ids of the n largest of x [V], largest first, ties to the lowest id. V <= n gives all.

    Raises ValueError if one is NaN or +infinity.
    """
    return _core.largest(x, n)


def log_softmax_at(logits: F32, ids: Sequence[int]) -> F64:
    """log p of `ids` under the raw distribution of logits [V]: all of V, nothing masked."""
    chosen: F64 = logits[ids].astype(np.float64) - _core.log_sum_exp(logits)
    return chosen
