"""Replies that repeat themselves are told from those that do not."""

from __future__ import annotations

import pytest

from qwell.engine.loops import ends_in_loop


@pytest.mark.parametrize("period", [1, 3, 17, 64])
def test_loops_are_seen(period: int) -> None:
    run = [*range(100, 100 + period)]
    needed = max(256, 8 * period)
    ids = [*range(500), *(run * needed)[:needed]]
    assert ends_in_loop(ids)
    assert not ends_in_loop([*ids[:-1], 7])
    assert not ends_in_loop((run * needed)[: needed - 1])


def test_a_text_is_no_loop() -> None:
    assert not ends_in_loop([])
    assert not ends_in_loop([i * i % 251 + i for i in range(2000)])
    assert not ends_in_loop([*range(65)] * 20)  # a longer period may be a table
