"""Documents -> rows of at most T tokens, several documents in each, none of which sees another.

Best fit: the document that has waited longest opens a row, then the longest of those that wait and
fit is added until none does (Ding et al. 2024, "Fewer truncations improve language modeling"; the
wait bounds the memory). A document longer than T is split into pieces of T in pre-training and
counted, refused or left out and counted in fine-tuning; it is never cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qwell.data.example import Example
from qwell.data.mixture import Address, Mixture
from qwell.data.rows import Rows, RowSource
from qwell.errors import DataError, UsageError

Overlong = Literal["split", "refuse", "drop"]

REACH = 8
"""Documents wait until they hold so many rows' tokens."""
MAX_WAITING = 1024
_FORMAT = 2  # of a state. 1: Parquet files of one row group were read in another order


@dataclass
class PackingReport:
    """What became rows so far, and what did not. Counts over all epochs."""

    documents: int = 0
    tokens: int = 0
    targets: int = 0
    rows: int = 0
    split: int = 0
    """Documents longer than a row, cut into pieces that are all learnt."""
    dropped: int = 0
    """Documents longer than a row, left out."""
    untargeted: int = 0
    """Documents without any token to learn, left out."""
    places: list[str] = field(default_factory=list)
    """The first few of those split, dropped or without targets, and why."""

    @property
    def all_left_out(self) -> bool:
        return self.documents == self.dropped + self.untargeted

    def note(self, what: str, found: Example) -> None:
        setattr(self, what, getattr(self, what) + 1)
        if len(self.places) < 10:
            self.places.append(f"{found.place}: {what}, {len(found):,} tokens")


@dataclass(frozen=True)
class _Waiting:
    address: Address
    piece: int
    example: Example


class PackedRows:
    """A RowSource over a mixture. `num_tokens` is at most tokens_per_row in every Rows.

    Iterating raises DataError at a document that is wrong, or over-long under "refuse". `files`
    are those the documents lie in.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        tokens_per_row: int,
        overlong: Overlong = "split",
        files: Sequence[Path] = (),
    ) -> None:
        if tokens_per_row < 2:
            raise UsageError(f"a row of {tokens_per_row} tokens can teach nothing: give at least 2")
        if overlong not in ("split", "refuse", "drop"):
            raise UsageError(f"overlong is {overlong!r}: it is 'split', 'refuse' or 'drop'")
        self.mixture, self.tokens_per_row, self.overlong = mixture, tokens_per_row, overlong
        self.files = files
        self.report = PackingReport()
        self._waiting: list[_Waiting] = []

    def __iter__(self) -> Iterator[Rows]:
        while True:
            self._fill()
            yield self._take(self._waiting, self.report)

    def one_pass(self) -> Iterator[Rows]:
        """Every document once, in the order of the files, then the end: for validation. Leaves the
        state of the endless order alone."""
        report, waiting = PackingReport(), list[_Waiting]()
        for address in map(self.mixture.address, range(len(self.mixture))):
            waiting += self._admitted(address, self.mixture.encode(address), report)
            while _held(waiting) >= REACH * self.tokens_per_row:
                yield self._take(waiting, report)
        while waiting:
            yield self._take(waiting, report)

    @property
    def num_documents(self) -> int:
        """Documents of one epoch."""
        return len(self.mixture)

    @property
    def epoch(self) -> float:
        """How often the data has been read."""
        return self.mixture.epoch

    @property
    def fill(self) -> float:
        """Share of the places in the rows so far that hold a token."""
        return self.report.tokens / max(1, self.report.rows * self.tokens_per_row)

    def state(self) -> dict[str, Any]:
        """JSON: where the sources are, and which documents wait. No tokens."""
        at = [(w.address, w.piece) for w in self._waiting]
        return {
            "format": _FORMAT,
            "tokens_per_row": self.tokens_per_row,
            "overlong": self.overlong,
            "mixture": self.mixture.state(),
            "waiting": [[a.source, a.epoch, a.at, piece] for a, piece in at],
            "report": asdict(self.report),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Raises DataError if the state is of other data or another T."""
        if state.get("format") != _FORMAT:
            raise DataError(
                f"the run began when documents were read in another order (format "
                f"{state.get('format')}, now {_FORMAT}): start it anew in another folder"
            )
        for part, mine in (
            ("tokens_per_row", self.tokens_per_row),
            ("overlong", self.overlong),
        ):
            if state.get(part) != mine:
                raise DataError(
                    f"the run began with {part} {state.get(part)}, not {mine}: take the same"
                )
        self.mixture.restore(state["mixture"])
        self.report = PackingReport(**state["report"])
        again = lru_cache(2)(self._pieces)  # the pieces of a document wait one after the other
        addresses = [(Address(*place), piece) for *place, piece in state["waiting"]]
        self._waiting = [_Waiting(a, piece, again(a)[piece]) for a, piece in addresses]

    def _pieces(self, address: Address) -> list[Example]:
        return self.mixture.encode(address).pieces(self.tokens_per_row)

    def _fill(self) -> None:
        """Reads on until enough documents wait."""
        held = _held(self._waiting)
        while held < REACH * self.tokens_per_row and len(self._waiting) < MAX_WAITING:
            fresh = self._admitted(*self.mixture.next(), self.report)
            held += _held(fresh)
            self._waiting += fresh
            if self.report.all_left_out and self.report.documents >= len(self.mixture):
                raise DataError(
                    "no document can be learnt from; the first are "
                    f"{'; '.join(self.report.places[:3])}: check the data and the size of a row"
                )

    def _admitted(self, address: Address, found: Example, report: PackingReport) -> list[_Waiting]:
        pieces = admitted(found, self.tokens_per_row, self.overlong, report)
        # A piece of a split conversation may hold none of its targets.
        return [_Waiting(address, i, p) for i, p in enumerate(pieces) if p.num_targets]

    def _take(self, waiting: list[_Waiting], report: PackingReport) -> Rows:
        """The next row, out of those that wait."""
        taken = best_fit([len(w.example) for w in waiting], self.tokens_per_row)
        row = to_rows([waiting[i].example for i in taken])
        left = set(taken)
        waiting[:] = [w for i, w in enumerate(waiting) if i not in left]
        report.rows += 1
        report.tokens += row.num_tokens
        report.targets += row.num_targets
        return row


def _held(waiting: list[_Waiting]) -> int:
    return sum(len(w.example) for w in waiting)


def admitted(found: Example, size: int, overlong: Overlong, report: PackingReport) -> list[Example]:
    """The pieces of a document by the rule for over-long ones; what is left out is noted."""
    report.documents += 1
    if not found.num_targets:
        report.note("untargeted", found)
        return []
    if len(found) <= size:
        return [found]
    if overlong == "refuse":
        raise DataError(
            f"{found.place}: has {len(found):,} tokens, but a row holds {size:,}: make the rows "
            "larger, or leave over-long documents out (overlong=drop)"
        )
    report.note("split" if overlong == "split" else "dropped", found)
    return found.pieces(size) if overlong == "split" else []


def best_fit(lengths: list[int], size: int) -> list[int]:
    """Which documents make the next row: the first, then always the longest that fits, the earlier
    of equals."""
    taken, room = [0], size - lengths[0]
    by_length = sorted(range(1, len(lengths)), key=lambda i: -lengths[i])
    for i in by_length:  # one pass: what did not fit will not fit into less room
        if lengths[i] <= room:
            taken.append(i)
            room -= lengths[i]
    return taken


def to_rows(examples: list[Example]) -> Rows:
    """Documents end to end."""
    lens = [len(e) for e in examples]
    return Rows(
        input_ids=np.concatenate([e.input_ids for e in examples]),
        row_splits=np.concatenate([[0], np.cumsum(lens)]).astype(np.int32),
        is_target=np.concatenate([e.is_target for e in examples]),
    )


class _Every:
    """Rows rank, rank + world, ... of a source."""

    def __init__(self, source: RowSource, rank: int, world: int) -> None:
        if not 0 <= rank < world:
            raise UsageError(f"rank {rank} is not one of {world} processes")
        self._source, self._rank, self._world = source, rank, world

    def __iter__(self) -> Iterator[Rows]:
        rows = iter(self._source)
        while batch := list(islice(rows, self._world)):
            yield batch[self._rank]

    def state(self) -> dict[str, Any]:
        return self._source.state()

    def restore(self, state: dict[str, Any]) -> None:
        self._source.restore(state)


def every(source: RowSource, rank: int, world: int) -> RowSource:
    """The rows of process `rank` of `world`. All processes read the same data and are always at
    the same place, so the state of one is that of all."""
    return _Every(source, rank, world)
