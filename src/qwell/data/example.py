"""A document as ids with the tokens that are learnt, and where sequences of them come from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qwell.data.records import joined_blocks
from qwell.model.batch import I32


@dataclass(frozen=True, eq=False)
class Example:
    """T tokens of one document. The first is never learnt: no row stands before it."""

    input_ids: I32  # [T]
    is_target: NDArray[np.bool_]  # [T]
    place: str
    """`file:line`, for people."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_targets(self) -> int:
        return int(self.is_target.sum())

    def pieces(self, size: int) -> list[Example]:
        """Cut into pieces of at most `size` tokens, two at least. Each begins with the last token
        of the piece before, which is not learnt again: so every token is learnt once."""
        return [self._piece(at, size) for at in range(0, max(1, len(self) - 1), size - 1)]

    def _piece(self, at: int, size: int) -> Example:
        learnt = self.is_target[at : at + size].copy()
        learnt[:1] = False
        return Example(self.input_ids[at : at + size], learnt, self.place)


class Examples(Protocol):
    """A sequence of documents; `encode` gives one as ids. The epoch matters only to documents that
    are changed at random. `blocks` is that of the records below."""

    @property
    def blocks(self) -> Sequence[int]: ...
    def __len__(self) -> int: ...
    def encode(self, at: int, epoch: int) -> Example: ...


class JoinedExamples:
    """Several sequences of documents as one."""

    def __init__(self, parts: Sequence[Examples]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))
        self.blocks = joined_blocks([part.blocks for part in parts])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def encode(self, at: int, epoch: int) -> Example:
        part = bisect_right(self._ends, at)
        return self._parts[part].encode(at - self._ends[part] + len(self._parts[part]), epoch)


def example(ids: Sequence[int], learnt: Sequence[bool] | None, place: str) -> Example:
    """An Example out of lists; without `learnt` every token but the first is."""
    is_target = np.ones(len(ids), np.bool_) if learnt is None else np.array(learnt, np.bool_)
    is_target[:1] = False
    return Example(np.array(ids, np.int32), is_target, place)
