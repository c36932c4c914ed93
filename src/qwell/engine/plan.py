"""What a step computes of each request, and the batch that says so to the back end.

Knows replies and their pages, not who was chosen nor why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwell.engine.reply import Reply
from qwell.engine.types import F32
from qwell.model.batch import Batch


@dataclass(frozen=True)
class Part:
    """The next `rows` tokens of a reply of which `first` are computed already."""

    reply: Reply
    rows: int
    first: int

    @property
    def done(self) -> int:
        return self.first + self.rows

    @property
    def is_last(self) -> bool:
        """Whether the row of its newest token is in it."""
        return self.done == len(self.reply.tokens)

    @property
    def num_logits(self) -> int:
        """Logits are wanted of so many rows, counted from the last."""
        return self.rows if self.reply.wants_prompt_logits else int(self.is_last)


@dataclass(frozen=True)
class Shape:
    """How large a step is."""

    replies: int = 0
    """Requests of which one row is computed."""
    prompt_rows: int = 0
    context: int = 0
    """Tokens that the rows of replies look back on, all together."""


def shape_of(parts: Sequence[Part]) -> Shape:
    """The size of a step; a part of one row counts as a reply, whatever its role."""
    singles = [part.done for part in parts if part.rows == 1]
    return Shape(len(singles), sum(part.rows for part in parts) - len(singles), sum(singles))


def batch_of(parts: Sequence[Part], kv: Any, out_logits: F32) -> Batch:
    """The rows of all parts end to end; out_logits is for their logits."""
    return Batch.make(
        [p.reply.tokens[p.first : p.done] for p in parts],
        past=[p.first for p in parts],
        prompt_len=[p.reply.num_prompt for p in parts],
        logits=[p.num_logits for p in parts],
        kv=kv,
        pages=[p.reply.lease.pages for p in parts if p.reply.lease],
        out_logits=out_logits,
    )
