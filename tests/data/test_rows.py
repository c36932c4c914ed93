"""Rows: the batch they make, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from qwell.data.rows import Rows


def rows(ids: list[int], splits: list[int], targets: list[int]) -> Rows:
    mask = np.isin(np.arange(len(ids)), targets)
    return Rows(np.array(ids, np.int32), np.array(splits, np.int32), mask)


def test_output_rows_come_before_their_targets() -> None:
    made = rows([5, 6, 7, 8, 9], [0, 3, 5], targets=[2, 4])
    batch = made.batch()
    assert batch.positions.tolist() == [0, 1, 2, 0, 1]
    assert batch.out_rows.tolist() == [1, 3]
    assert made.targets.tolist() == [7, 9]
    assert batch.spans() == [(0, 3), (3, 5)]
    assert (made.num_tokens, made.num_targets) == (5, 2)


@pytest.mark.parametrize(
    ("splits", "targets", "what"),
    [
        ([0, 4], [], "cover"),
        ([1, 5], [], "cover"),
        ([0, 2, 2, 5], [], "without tokens"),
        ([0, 2, 5], [2], "first token"),
        ([0, 5], [0], "first token"),
    ],
)
def test_what_does_not_fit_is_refused(splits: list[int], targets: list[int], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        rows([1, 2, 3, 4, 5], splits, targets)
