"""Parquet files -> records. A row cannot be had for less than its row group, so groups are what is
read and held, and `blocks` says how large they are. Needs pyarrow.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from qwell.data.order import WINDOW
from qwell.data.records import Record
from qwell.errors import DataError, MissingPackageError, NotFoundError

ReadGroup = Callable[[Path, int], Any]


def held_groups() -> ReadGroup:
    """Reads a row group (file, number) and holds as many as are shuffled together. What is read in
    an order of its own needs one of its own, or they push each other's groups out."""

    @lru_cache(WINDOW)
    def read(path: Path, group: int) -> Any:
        with _reading(path):
            return _parquet(path).read_row_group(group)

    return read


class Parquet:
    """One object a row. What is null inside a column is left out: a column of structs has the
    fields of all its rows, so the arguments of one call would name those of every other."""

    def __init__(self, path: Path, read_group: ReadGroup | None = None) -> None:
        self._path = path
        self._read_group = read_group or held_groups()
        with _reading(path):
            metadata = _parquet(path).metadata
            self._groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._ends = list(accumulate(self._groups))
        # One group alone is no row that can be read alone: see Records.
        self.blocks, self.paths = [*self._groups, *[0] * (len(self._groups) == 1)], [path]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, at: int) -> Record:
        group = bisect_right(self._ends, at)
        row = at - (self._ends[group] - self._groups[group])
        place = f"{self._path}: row {at + 1}"
        with _reading(place):  # of a time no datetime can hold, say
            value = self._read_group(self._path, group).slice(row, 1).to_pylist()[0]
        return Record({column: _stated(item) for column, item in value.items()}, place)


def _stated(value: Any) -> Any:
    """The value without what is null in its objects."""
    if isinstance(value, dict):
        return {key: _stated(item) for key, item in value.items() if item is not None}
    return [_stated(item) for item in value] if isinstance(value, list) else value


def _parquet(path: Path) -> Any:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path)


@contextmanager
def _reading(place: object) -> Iterator[None]:
    """Turns what pyarrow raises into DataError, NotFoundError for the system's refusals."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(f"{place}: reading Parquet", "pyarrow") from error
    except OSError as error:
        raise NotFoundError(f"{place}: cannot be read ({error}): check it") from error
    except (ValueError, TypeError, ArithmeticError, LookupError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{place}: is not sound Parquet ({reason}): check it") from error
