"""Every page is free or in exactly one list, whatever the schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwell.engine.kv_cache import PagePool, pages_for


def check(pool: PagePool, owners: list[list[int]]) -> None:
    held = [page for pages in owners for page in pages]
    assert len(held) == len(set(held)) == pool.num_pages - pool.num_free
    assert all(0 <= page < pool.num_pages for page in held)


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 700)))),
)
def test_random_schedules(num_pages: int, schedule: list[tuple[int, int | None]]) -> None:
    pool, owners = PagePool(num_pages), [[] for _ in range(5)]
    for who, tokens in schedule:
        before, free = list(owners[who]), pool.num_free
        if tokens is None:
            pool.release(owners[who])
            assert owners[who] == []
        else:
            missing = max(0, pages_for(tokens) - len(before))
            assert pool.grow(owners[who], tokens) == (missing <= free)
            grown = len(before) + (missing if missing <= free else 0)
            assert owners[who][: len(before)] == before and len(owners[who]) == grown
        check(pool, owners)
    for pages in owners:
        pool.release(pages)
    assert pool.num_free == num_pages


def test_low_and_lately_freed_pages_first() -> None:
    pool, a, b = PagePool(100), [], []
    pool.grow(a, 3 * 64)
    assert a == [0, 1, 2]
    pool.release(a)
    pool.grow(b, 200)
    assert sorted(b) == [0, 1, 2, 3]  # no page is touched that need not be


def test_a_page_released_twice_is_a_bug() -> None:
    pool, pages = PagePool(2), []
    pool.grow(pages, 1)
    copy = list(pages)
    pool.release(pages)
    with pytest.raises(ValueError, match="twice"):
        pool.release(copy)


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (64, 1), (65, 2), (128, 2)])
def test_pages_for(tokens: int, pages: int) -> None:
    assert pages_for(tokens) == pages
