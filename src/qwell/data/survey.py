"""What a data set comes to in rows, counted before a run: for --dry-run and the doctor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from qwell.data.draw import Shuffle
from qwell.data.example import Example
from qwell.data.packing import PackedRows
from qwell.errors import DataError


@dataclass(frozen=True)
class Survey:
    """Counts of one epoch. When only some documents were encoded they are scaled up, and `longest`
    is the longest of those seen."""

    documents: int
    tokens: int
    """Of the documents that become rows, as `targets`."""
    targets: int
    rows: int
    overlong: int
    """Documents longer than a row."""
    longest: int
    """Its tokens."""
    longest_place: str
    is_estimate: bool


def numbered_examples(
    rows: PackedRows, limit: int | None = None
) -> Iterator[tuple[int, Example | DataError]]:
    """Every document once with its number, or `limit` of them drawn evenly; for a wrong one, what
    is wrong with it. `rows` is left as it was."""
    total = len(rows.mixture)
    some = limit is not None and limit < total
    for at in map(Shuffle(total, "survey"), range(limit or 0)) if some else range(total):
        try:
            yield at, rows.mixture.encode(rows.mixture.address(at))
        except DataError as error:
            yield at, error


def survey(rows: PackedRows, limit: int | None = None) -> Survey:
    """Encodes every document, or `limit` of them. Raises DataError for one that is wrong.

    The number of rows is that of full rows: packing leaves a few per cent of the places empty, more
    where documents are about as long as a row.
    """
    tokens = targets = overlong = untargeted = longest = seen = 0
    place = ""
    for _, found in numbered_examples(rows, limit):
        if isinstance(found, DataError):
            raise found
        seen += 1
        is_overlong = len(found) > rows.tokens_per_row
        untargeted += not found.num_targets
        overlong += is_overlong
        if found.num_targets and (not is_overlong or rows.overlong == "split"):
            tokens += len(found)
            targets += found.num_targets
        if len(found) > longest:
            longest, place = len(found), found.place
    if untargeted == seen:
        raise DataError("no document holds a token to learn: see qwell train inspect")
    if not tokens:
        raise DataError(f"every document is longer than a row of {rows.tokens_per_row:,} tokens")
    scale = len(rows.mixture) / seen
    return Survey(
        documents=len(rows.mixture),
        tokens=round(scale * tokens),
        targets=round(scale * targets),
        rows=ceil(scale * tokens / rows.tokens_per_row),
        overlong=round(scale * overlong),
        longest=longest,
        longest_place=place,
        is_estimate=seen < len(rows.mixture),
    )
