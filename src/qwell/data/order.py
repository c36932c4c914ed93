"""In which order documents are read: shuffled anew each epoch, fixed by the seed, nothing stored.

Documents that can be read one at a time are shuffled as one. Where they come in blocks (row groups
of Parquet) the blocks are shuffled, and the documents inside each window of WINDOW blocks, so no
more than a window has to be held.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from qwell.data.draw import Shuffle

WINDOW = 8


class Order:
    """`order(epoch, k)`: the k-th document of an epoch."""

    def __init__(self, blocks: Sequence[int], seed: int, *, shuffle: bool = True) -> None:
        self._sizes = [size for size in blocks if size]
        self._starts = list(accumulate(self._sizes, initial=0))
        self._seed, self._shuffle = seed, shuffle

    def __len__(self) -> int:
        return self._starts[-1]

    def __call__(self, epoch: int, k: int) -> int:
        if not self._shuffle:
            return k
        windows, ends = _windows(tuple(self._sizes), self._seed, epoch)
        at = bisect_right(ends, k)
        blocks = windows[at]
        sizes = [self._sizes[block] for block in blocks]
        place = k - (ends[at] - sum(sizes))
        place = _shuffle(sum(sizes), self._seed, epoch, at)(place)
        starts = list(accumulate(sizes, initial=0))
        inside = bisect_right(starts, place) - 1
        return self._starts[blocks[inside]] + place - starts[inside]


@lru_cache(64)
def _windows(sizes: tuple[int, ...], seed: int, epoch: int) -> tuple[list[list[int]], list[int]]:
    """The blocks of each window, and how many documents there are up to its end."""
    shuffled = Shuffle(len(sizes), seed, "blocks", epoch)
    order = [shuffled(i) for i in range(len(sizes))]
    windows = [order[i : i + WINDOW] for i in range(0, len(order), WINDOW)]
    return windows, list(accumulate(sum(sizes[block] for block in w) for w in windows))


@lru_cache(64)
def _shuffle(size: int, seed: int, epoch: int, window: int) -> Shuffle:
    return Shuffle(size, seed, "documents", epoch, window)
