"""One micro-batch of training: documents end to end, and which tokens are learnt.

The seam between `data`, which makes rows, and `train`, which learns from them. The model side is
the very `Batch` that serves: a row whose next token is a target is an output row, every other row
skips the final norm and the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwell.model.batch import I32, Batch


@dataclass(frozen=True, eq=False)
class Rows:
    """T tokens of S documents; a document never sees another.

    is_target[t]: token t is learnt, from the row before it. Never true for the first token of a
    document. Raises ValueError when the parts do not fit each other.
    """

    input_ids: I32  # [T]
    row_splits: I32  # [S + 1], tokens of document s are row_splits[s] .. row_splits[s + 1]
    is_target: NDArray[np.bool_]  # [T]

    def __post_init__(self) -> None:
        total = len(self.input_ids)
        if self.row_splits[0] != 0 or self.row_splits[-1] != total:
            raise ValueError("row_splits do not cover the tokens")
        if len(self.is_target) != total:
            raise ValueError(f"is_target has {len(self.is_target)} entries for {total} tokens")
        if (np.diff(self.row_splits) <= 0).any():
            raise ValueError("a document without tokens")
        if self.is_target[self.row_splits[:-1]].any():
            raise ValueError("the first token of a document cannot be a target")

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def num_targets(self) -> int:
        return int(self.is_target.sum())

    @property
    def targets(self) -> I32:
        """[R]: what the output rows of `batch()` should say, in their order."""
        return self.input_ids[self.is_target]

    def batch(self) -> Batch:
        """The step the decoder runs: every document from position 0, R output rows, no cache."""
        lens = np.diff(self.row_splits).astype(np.int32)
        starts = np.repeat(self.row_splits[:-1], lens)
        return Batch(
            input_ids=self.input_ids,
            row_splits=self.row_splits,
            past=np.zeros(len(lens), np.int32),
            prompt_len=lens,
            positions=(np.arange(self.num_tokens) - starts).astype(np.int32),
            out_rows=(np.flatnonzero(self.is_target) - 1).astype(np.int32),
        )


class RowSource(Protocol):
    """Endless micro-batches in an order fixed by its seed. `state()` is JSON; a fresh source given
    it by `restore` goes on with the very next Rows."""

    def __iter__(self) -> Iterator[Rows]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...
