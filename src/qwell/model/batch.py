"""The rows of one step, and everything that depends on the request behind each.

Rows of all sequences lie end to end. A row is a *prompt row* while its position is below its
sequence's prompt_len, a *reply row* after; the role fixes the formula of its arithmetic, never
the number of rows beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

PAGE_SIZE = 64
"""Tokens of one KV page. Attention walks keys in blocks of this size at absolute positions."""

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """One step over S sequences with T rows in all; R of them want logits.

    kv is the back end's cache (None: attention sees this step's rows alone); page_table[s, p]
    is the page that holds positions [p * PAGE_SIZE, (p + 1) * PAGE_SIZE) of sequence s.
    out_logits [n, V] is where a back end may write the logits if R <= n, in place of a fresh array.
    """

    input_ids: I32  # [T]
    row_splits: I32  # [S + 1], rows of sequence s are row_splits[s] .. row_splits[s + 1]
    past: I32  # [S], tokens already in the cache
    prompt_len: I32  # [S]
    positions: I32  # [T]
    out_rows: I32  # [R]
    kv: Any = None
    page_table: I32 | None = None  # [S, P]
    out_logits: F32 | None = None

    @property
    def num_rows(self) -> int:
        return len(self.input_ids)

    @property
    def num_seqs(self) -> int:
        return len(self.past)

    def spans(self) -> list[tuple[int, int]]:
        """First and one-past-last row of every sequence."""
        splits = self.row_splits.tolist()
        return list(pairwise(splits))

    @classmethod
    def make(
        cls,
        ids: Sequence[Sequence[int]],
        *,
        past: Sequence[int] | None = None,
        prompt_len: Sequence[int] | None = None,
        logits: Literal["last", "all", "none"] | Sequence[int] = "last",
        kv: Any = None,
        pages: Sequence[Sequence[int]] | None = None,
        out_logits: F32 | None = None,
    ) -> Batch:
        """Lays the new tokens `ids[s]` of every sequence end to end.

        past defaults to 0; prompt_len to "all of these tokens are prompt"; logits is "last"
        (one row a sequence), "all", "none", or how many rows of each sequence, counted from its
        last. pages[s] lists the pages of sequence s. Raises ValueError for an empty sequence,
        too few pages, or more rows wanted than there are.
        """
        lens = [len(tokens) for tokens in ids]
        if not lens or min(lens) == 0:
            raise ValueError("every sequence of a batch needs at least one new token")
        before = list(past) if past is not None else [0] * len(lens)
        prompts = (
            list(prompt_len)
            if prompt_len is not None
            else [b + n for b, n in zip(before, lens, strict=True)]
        )
        # Lists until the end: a step waits for this, and small arrays are slow one by one.
        splits = list(accumulate(lens, initial=0))
        positions = [i for b, n in zip(before, lens, strict=True) for i in range(b, b + n)]
        return cls(
            input_ids=np.array([token for tokens in ids for token in tokens], np.int32),
            row_splits=np.array(splits, np.int32),
            past=np.array(before, np.int32),
            prompt_len=np.array(prompts, np.int32),
            positions=np.array(positions, np.int32),
            out_rows=np.array(_out_rows(logits, lens, splits), np.int32),
            kv=kv,
            page_table=_page_table(pages, before, lens) if kv is not None else None,
            out_logits=out_logits,
        )


def _out_rows(
    logits: Literal["last", "all", "none"] | Sequence[int], lens: list[int], splits: list[int]
) -> list[int]:
    """The last so many rows of every sequence."""
    if isinstance(logits, str):
        logits = {"last": [1] * len(lens), "all": lens, "none": [0] * len(lens)}[logits]
    if any(not 0 <= n <= length for n, length in zip(logits, lens, strict=True)):
        raise ValueError("logits of more rows than a sequence has are wanted, or of less than 0")
    return [i for end, n in zip(splits[1:], logits, strict=True) for i in range(end - n, end)]


def _page_table(
    pages: Sequence[Sequence[int]] | None, past: Sequence[int], lens: Sequence[int]
) -> I32:
    if pages is None or len(pages) != len(lens):
        raise ValueError("a batch with a kv cache needs the pages of every sequence")
    width = max(len(p) for p in pages)
    for s, own in enumerate(pages):
        needed = -(-(past[s] + lens[s]) // PAGE_SIZE)
        if len(own) < needed:
            raise ValueError(f"sequence {s} needs {needed} pages, has {len(own)}")
    return np.array([[*own, *[-1] * (width - len(own))] for own in pages], np.int32)
