"""Parquet: any row, few reads, only what a row states, and one line for what cannot be read."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwell.data import parquet
from qwell.data.clean import clean
from qwell.data.folder import open_records
from qwell.data.formats import read_conversation
from qwell.data.order import WINDOW
from qwell.data.sources import pretrain_rows
from qwell.errors import DataError, NotFoundError
from tests.data.small import small_tokenizer


def write(path: Path, values: list[dict[str, Any]], group: int | None = None) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(values), path, row_group_size=group)
    return path


def numbered(name: str, count: int) -> list[dict[str, Any]]:
    return [{"text": f"{name} row {i}"} for i in range(count)]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int]]:
    """Every row group that is read from a file."""
    found: list[tuple[Path, int]] = []
    real = parquet._parquet

    class Seen:
        def __init__(self, path: Path) -> None:
            self._path, self._file = path, real(path)
            self.metadata = self._file.metadata

        def read_row_group(self, group: int) -> Any:
            found.append((self._path, group))
            return self._file.read_row_group(group)

    monkeypatch.setattr(parquet, "_parquet", Seen)
    return found


def test_any_row_is_read_with_its_place(tmp_path: Path) -> None:
    values = [{"text": f"row {i}", "n": i} for i in range(25)]
    found = open_records(write(tmp_path / "a.parquet", values, 10)).records
    assert list(found.blocks) == [10, 10, 5]
    assert [found[i].value for i in reversed(range(25))] == values[::-1]
    assert found[11].place == f"{tmp_path / 'a.parquet'}: row 12"


Sources = Callable[[Path], tuple[list[Path], list[float] | None]]


def _one_folder(tmp: Path) -> tuple[list[Path], None]:
    for i in range(40):
        write(tmp / "many" / f"{i}.parquet", numbered(str(i), 50))
    return [tmp / "many"], None


def _one_path_each(tmp: Path) -> tuple[list[Path], None]:
    return [write(tmp / f"{i}.parquet", numbered(str(i), 50)) for i in range(40)], None


def _a_mixture(tmp: Path) -> tuple[list[Path], list[float]]:
    return [write(tmp / f"{i}.parquet", numbered(str(i), 500), 50) for i in range(4)], [1.0] * 4


@pytest.mark.parametrize("sources", [_one_folder, _one_path_each, _a_mixture])
def test_an_epoch_reads_each_group_once(
    sources: Sources, tmp_path: Path, reads: list[tuple[Path, int]]
) -> None:
    """Shuffled, in files of one group and in sources whose documents take turns. A file of one
    group was taken for one whose rows can be read alone, and sources shared what was held."""
    paths, weights = sources(tmp_path)
    rows = pretrain_rows(paths, small_tokenizer(), tokens=64, weights=weights)
    seen = {rows.mixture.next()[1].place for _ in range(len(rows.mixture))}
    assert len(seen) == len(rows.mixture) == 2000
    assert len(reads) == len(set(reads)) == 40


def test_no_more_than_a_window_is_held_for_all_that_is_shuffled_as_one(tmp_path: Path) -> None:
    paths, _ = _one_path_each(tmp_path)
    group = parquet.held_groups()
    opened = [open_records(path, read_group=group).records for path in paths]
    for records in opened:
        records[0]
    assert group.cache_info().currsize == WINDOW  # type: ignore[attr-defined]


def test_a_field_of_another_row_is_none_of_this(tmp_path: Path) -> None:
    """A column of structs has the fields of all its rows, null where a row has them not."""
    calls = [
        {"function": {"name": "weather", "arguments": {"city": "Oslo"}}},
        {"function": {"name": "clock", "arguments": {"zone": {"hours": 2}}}},
    ]
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "tool_calls": calls},
    ]
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]
    values = [{"messages": turns, "tools": tools}, {"messages": turns[:1], "tools": None}]
    found = open_records(write(tmp_path / "a.parquet", values)).records
    first = read_conversation(found[0], "messages")
    assert (first.messages, first.tools) == (turns, tools)
    assert found[1].value == {"messages": turns[:1], "tools": None}


def test_columns_json_does_not_know(tmp_path: Path) -> None:
    day, price = datetime.datetime(2020, 1, 2, 3), Decimal("1.50")
    values = [{"text": "hello", "day": day, "price": price}]
    left, _ = clean(open_records(write(tmp_path / "a.parquet", values)).records)
    left.save(tmp_path / "out.jsonl")
    told = open_records(tmp_path / "out.jsonl").records[0].value
    assert told == {"text": "hello", "day": "2020-01-02 03:00:00", "price": "1.50"}

    image = write(tmp_path / "b.parquet", [{"text": "hello", "image": b"\xff"}])
    left, _ = clean(open_records(image).records)
    with pytest.raises(DataError, match=r"b\.parquet: row 1: JSON has no bytes"):
        left.save(tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match=r"a\.parquet: is not sound Parquet"):
        open_records(tmp_path / "a.parquet")

    damaged = write(tmp_path / "b.parquet", numbered("b", 1000))
    raw = bytearray(damaged.read_bytes())
    raw[4:400] = bytes(396)
    damaged.write_bytes(raw)
    found = open_records(damaged).records
    with pytest.raises((DataError, NotFoundError), match=r"b\.parquet: "):
        found[0]

    far = pa.array([2**62], pa.timestamp("us"))  # a year no datetime can hold
    pq.write_table(pa.table({"text": ["hi"], "at": far}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: row 1: is not sound Parquet"):
        open_records(tmp_path / "c.parquet").records[0]
