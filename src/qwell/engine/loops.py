"""Whether a reply has run into a loop. It tells, it changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_PERIOD, MIN_REPEATS, MIN_TOKENS = 64, 8, 256


def ends_in_loop(token_ids: Sequence[int]) -> bool:
    """Whether the last tokens are one run of at most MAX_PERIOD tokens again and again: at least
    MIN_REPEATS times and over at least MIN_TOKENS tokens."""
    ids = np.asarray(token_ids[-MAX_PERIOD * MIN_REPEATS :], np.int64)
    for period in range(1, MAX_PERIOD + 1):
        span = max(MIN_TOKENS, MIN_REPEATS * period)
        if span > len(ids):
            return False
        tail = ids[-span:]
        if np.array_equal(tail[period:], tail[:-period]):
            return True
    return False
