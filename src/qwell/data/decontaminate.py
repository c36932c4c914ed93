"""Test data found in training data, by the rule of the Qwen2.5 report (section 3.1): a training
sequence goes if it and a test sequence have a common subsequence of at least 13 tokens that is at
least 0.6 of the shorter of the two.

In a document far longer than a question almost every subsequence occurs somewhere, so a long one
is compared in overlapping windows of at least twice the length of the test: a test that stands in
it is whole in a window.

The multiset of tokens two sequences share bounds their subsequence from above; an index of the
tokens of all tests counts it for all at once, and only those that may reach the rule are compared.
That loses nothing. The subsequence itself is found in the bits of one integer (Crochemore et al.
2001, Hyyrö 2004).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

MIN_TOKENS = 13
SHARE = 0.6

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Overlap:
    """`length` tokens in common with test number `test`, beginning the window at token `start`."""

    test: int
    length: int
    start: int


def common_subsequence(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common subsequence of two sequences of ids."""
    return _in_bits(_match_masks(a), len(a), b)


def needed(a: int, b: int) -> int:
    """Tokens in common from which sequences of these lengths overlap."""
    return max(MIN_TOKENS, ceil(SHARE * min(a, b) - 1e-9))


class Contamination:
    """The test sequences of an evaluation, ready to be looked for."""

    def __init__(self, tests: Sequence[Sequence[int]]) -> None:
        self._tests = [list(test) for test in tests]
        by_window: dict[int, list[int]] = {}
        for number, test in enumerate(self._tests):
            if len(test) >= MIN_TOKENS:
                by_window.setdefault(_window(len(test)), []).append(number)
        self._groups = {w: _Index(self._tests, numbers) for w, numbers in by_window.items()}

    def find(self, ids: Sequence[int]) -> Overlap | None:
        """The first overlap of a training document with a test, by the rule."""
        for window, index in self._groups.items():
            for start in _starts(len(ids), window):
                part = ids[start : start + window]
                if found := self._compare(part, index):
                    return Overlap(*found, start)
        return None

    def _compare(self, part: Sequence[int], index: _Index) -> tuple[int, int] | None:
        candidates = index.may_overlap(part)
        masks = _match_masks(part) if len(candidates) else {}
        for number in candidates:
            test = self._tests[number]
            length = _in_bits(masks, len(part), test)
            if length >= needed(len(part), len(test)):
                return number, length
        return None


class _Index:
    """Which of some tests have a token, and how often."""

    def __init__(self, tests: Sequence[Sequence[int]], numbers: list[int]) -> None:
        self._numbers = np.array(numbers)
        self._lengths = np.array([len(tests[number]) for number in numbers])
        places: dict[int, list[tuple[int, int]]] = {}
        for row, number in enumerate(numbers):
            for token, count in Counter(tests[number]).items():
                places.setdefault(token, []).append((row, count))
        self._places = {t: np.array(pairs, np.int64).T for t, pairs in places.items()}

    def may_overlap(self, part: Sequence[int]) -> list[int]:
        """Numbers of the tests that share enough tokens with it, in any order of theirs."""
        shared = np.zeros(len(self._numbers), np.int64)
        for token, count in Counter(part).items():
            if (found := self._places.get(token)) is not None:
                shared[found[0]] += np.minimum(found[1], count)
        shorter = np.minimum(self._lengths, len(part))
        enough = np.maximum(MIN_TOKENS, np.ceil(SHARE * shorter - 1e-9))
        kept: list[int] = self._numbers[shared >= enough].tolist()
        return kept


def _window(length: int) -> int:
    """Tokens of a window for a test of that length: twice the next power of two."""
    return 2 << max(0, length - 1).bit_length()


def _starts(length: int, window: int) -> Iterator[int]:
    """Where windows begin: every half of one, until the end is covered."""
    yield from range(0, max(1, length - window // 2), window // 2)


def _match_masks(a: Sequence[int]) -> dict[int, int]:
    """Token -> an integer with a bit for each of its places in a."""
    masks: dict[int, int] = {}
    for place, token in enumerate(a):
        masks[token] = masks.get(token, 0) | 1 << place
    return masks


def _in_bits(masks: dict[int, int], length: int, b: Sequence[int]) -> int:
    """Zero bits of `row` are the places of a at which the subsequence grows."""
    full = (1 << length) - 1
    row = full
    for token in b:
        if mask := masks.get(token):
            matched = row & mask
            row = (row + matched | row - matched) & full
    return length - row.bit_count()
