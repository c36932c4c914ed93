"""Which document comes next: each source has its share of the tokens, exactly, at every moment.

The next document is taken from the source that is furthest behind its share; there is no draw, so a
short run has the mixture too. Without shares the sources are one, and an epoch reads every document
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from qwell.data.example import Example, Examples, JoinedExamples
from qwell.data.order import Order
from qwell.errors import DataError, UsageError


@dataclass(frozen=True)
class Address:
    """A document: its source, the epoch of that source, its number."""

    source: int
    epoch: int
    at: int


class Mixture:
    """An endless sequence of documents over sources with weights."""

    def __init__(
        self,
        sources: Sequence[Examples],
        weights: Sequence[float] | None = None,
        *,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        if weights is None:
            sources, weights = [JoinedExamples(sources)], [1.0]
        _check(weights, len(sources))
        if not sources or not all(map(len, sources)):
            raise DataError("there is no document to learn from: check the data")
        self._sources, self._weights = sources, weights
        self._seed, self._shuffle = seed, shuffle
        self._orders = [Order(s.blocks, seed + i, shuffle=shuffle) for i, s in enumerate(sources)]
        self._read = [0] * len(sources)  # documents
        self._tokens = [0] * len(sources)

    def __len__(self) -> int:
        """Documents of all sources."""
        return sum(map(len, self._sources))

    @property
    def epoch(self) -> float:
        """How often the source that was read most has been read."""
        return max(read / len(source) for read, source in zip(self._read, self._sources))

    def next(self) -> tuple[Address, Example]:
        """Raises DataError for a document that is wrong; asked again, it raises again."""
        behind = [tokens / weight for tokens, weight in zip(self._tokens, self._weights)]
        source = behind.index(min(behind))
        epoch, k = divmod(self._read[source], len(self._sources[source]))
        address = Address(source, epoch, self._orders[source](epoch, k))
        found = self.encode(address)
        self._read[source] += 1
        self._tokens[source] += len(found)
        return address, found

    def address(self, number: int) -> Address:
        """The document with that number over all sources, in the order of the files."""
        for source, examples in enumerate(self._sources):
            if number < len(examples):
                return Address(source, 0, number)
            number -= len(examples)
        raise IndexError(number)

    def encode(self, address: Address) -> Example:
        return self._sources[address.source].encode(address.at, address.epoch)

    def state(self) -> dict[str, Any]:
        return {
            "documents": [len(source) for source in self._sources],
            "weights": list(self._weights),
            "seed": self._seed,
            "shuffle": self._shuffle,
            "read": list(self._read),
            "tokens": list(self._tokens),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Raises DataError if the state is of other sources."""
        mine = self.state()
        for part in ("documents", "weights", "seed", "shuffle"):
            if state.get(part) != mine[part]:
                raise DataError(
                    f"the data is not what the run began with: {part} {state.get(part)} then, "
                    f"{mine[part]} now: give the same data, or begin a new run"
                )
        self._read, self._tokens = list(state["read"]), list(state["tokens"])


def _check(weights: Sequence[float], count: int) -> None:
    if len(weights) != count:
        raise UsageError(f"there are {len(weights)} weights for {count} sources: give one each")
    if not all(isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError(f"the weights {list(weights)} are not all above 0")
