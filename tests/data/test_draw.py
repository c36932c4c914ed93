"""Draws that depend on their key alone, and the order of documents."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell.data.draw import Shuffle, below, bits, uniform
from qwell.data.order import WINDOW, Order


@settings(deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 5))
def test_a_shuffle_is_a_permutation(size: int, seed: int) -> None:
    shuffle = Shuffle(size, seed)
    assert sorted(map(shuffle, range(size))) == list(range(size))
    with pytest.raises(IndexError):
        shuffle(size)


def test_every_place_is_equally_likely() -> None:
    """Where 0 and 1 of seven land, over many seeds: 42 outcomes of 1/42 each."""
    landed = Counter((Shuffle(7, s)(0), Shuffle(7, s)(1)) for s in range(21_000))
    assert len(landed) == 42
    chi2 = sum((count - 500) ** 2 / 500 for count in landed.values())
    assert chi2 < 80  # 41 degrees of freedom: above 80 once in 4,000


def test_draws_are_fixed_for_ever() -> None:
    """A resumed run must read the same order with the next release."""
    assert bits("a", 1) == 12444202034427101082
    assert list(map(Shuffle(8, 0), range(8))) == [1, 3, 2, 7, 4, 0, 5, 6]


def test_uniform_is_uniform() -> None:
    draws = [uniform("u", i) for i in range(4000)]
    assert 0 <= min(draws) < 0.01
    assert 0.99 < max(draws) < 1
    assert abs(sum(draws) / 4000 - 0.5) < 0.02
    assert Counter(below(4, "b", i) for i in range(4000)).keys() == {0, 1, 2, 3}


@settings(deadline=None)
@given(blocks=st.lists(st.integers(0, 9), max_size=30), seed=st.integers(0, 3))
def test_each_epoch_reads_every_document_once(blocks: list[int], seed: int) -> None:
    order = Order(blocks, seed)
    for epoch in (0, 1, 5):
        assert sorted(order(epoch, k) for k in range(len(order))) == list(range(sum(blocks)))


def test_epochs_and_seeds_differ_and_blocks_are_held_in_windows() -> None:
    order = Order([50] * 40, 7)
    first = [order(0, k) for k in range(2000)]
    assert first != [order(1, k) for k in range(2000)]
    assert first != [Order([50] * 40, 8)(0, k) for k in range(2000)]
    assert first == [Order([50] * 40, 7)(0, k) for k in range(2000)]
    window = first[: 50 * WINDOW]
    assert len({at // 50 for at in window}) == WINDOW
    assert window != sorted(window)
    single = Order([50], 7)
    assert [single(0, k) for k in range(50)] != [single(1, k) for k in range(50)]
    assert [Order([5], 7, shuffle=False)(3, k) for k in range(5)] == [0, 1, 2, 3, 4]
