"""Batch.make: rows end to end, positions, output rows, page tables, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qwell.model.batch import PAGE_SIZE, Batch


def test_lays_rows_end_to_end() -> None:
    batch = Batch.make([[5, 6, 7], [8], [9, 10]])
    assert batch.input_ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert batch.row_splits.tolist() == [0, 3, 4, 6]
    assert batch.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.past.tolist() == [0, 0, 0]
    assert batch.prompt_len.tolist() == [3, 1, 2]
    assert (batch.num_rows, batch.num_seqs) == (6, 3)
    assert batch.spans() == [(0, 3), (3, 4), (4, 6)]
    assert batch.kv is None
    assert batch.page_table is None


def test_positions_continue_after_past_and_new_tokens_default_to_prompt() -> None:
    batch = Batch.make([[1, 2], [3]], past=[10, 4])
    assert batch.positions.tolist() == [10, 11, 4]
    assert batch.prompt_len.tolist() == [12, 5]


def test_prompt_len_is_kept_for_reply_rows() -> None:
    assert Batch.make([[1]], past=[9], prompt_len=[4]).prompt_len.tolist() == [4]


@pytest.mark.parametrize(
    ("logits", "rows"),
    [
        ("last", [2, 3]),
        ("all", [0, 1, 2, 3]),
        ("none", []),
        ([2, 0], [1, 2]),
        ([3, 1], [0, 1, 2, 3]),
    ],
)
def test_output_rows(logits: Any, rows: list[int]) -> None:
    batch = Batch.make([[1, 2, 3], [4]], logits=logits)
    assert batch.out_rows.tolist() == rows
    assert batch.out_rows.dtype == np.int32


@pytest.mark.parametrize("logits", [[1, 2], [-1, 1], [1]])
def test_rows_that_are_not_there_are_refused(logits: list[int]) -> None:
    with pytest.raises(ValueError, match=r"more rows|zip\(\)"):
        Batch.make([[1, 2], [3]], logits=logits)


def test_every_array_is_int32() -> None:
    batch = Batch.make([[1, 2], [3]], kv=object(), pages=[[0], [1]])
    for name in ("input_ids", "row_splits", "past", "prompt_len", "positions", "page_table"):
        assert getattr(batch, name).dtype == np.int32, name


def test_page_table_is_ragged_with_minus_one() -> None:
    batch = Batch.make([[1], [2]], past=[PAGE_SIZE, 0], kv=object(), pages=[[7, 3], [5]])
    assert batch.page_table is not None
    assert batch.page_table.tolist() == [[7, 3], [5, -1]]


@pytest.mark.parametrize("ids", [[], [[]], [[1], []]])
def test_refuses_empty(ids: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="at least one new token"):
        Batch.make(ids)


def test_refuses_missing_pages() -> None:
    with pytest.raises(ValueError, match="needs the pages"):
        Batch.make([[1], [2]], kv=object(), pages=[[0]])
    with pytest.raises(ValueError, match="sequence 1 needs 2 pages, has 1"):
        Batch.make([[1], [2]], past=[0, PAGE_SIZE], kv=object(), pages=[[0], [1]])


def test_refuses_lists_of_other_lengths() -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        Batch.make([[1], [2]], past=[0])
