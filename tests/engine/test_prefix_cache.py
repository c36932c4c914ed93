"""Pages are lent only to who would compute the same, never lost, never given twice."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell.engine.engine import Engine
from qwell.engine.kv_cache import PagePool, pages_for
from qwell.engine.prefix_cache import Lease, PrefixCache
from qwell.engine.types import Request, SamplingParams
from tests.engine.tiny import EOS, Rowwise, make_tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)


class Sequence:
    """One user of the cache, and what it wrote where."""

    def __init__(self, cache: PrefixCache, key: str, tokens: list[int], num_prompt: int) -> None:
        self.key, self.tokens, self.num_prompt, self.done = key, tokens, num_prompt, 0
        self.lease = cache.begin(key, tokens, num_prompt)

    def content(self, page: int) -> tuple[object, ...]:
        """All that the numbers of a page of prompt or reply depend on."""
        end = (page + 1) * 64
        return self.key, tuple(self.tokens[:end]), min(self.num_prompt, end)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(4, 30), st.booleans())
def test_random_schedules(seed: int, num_pages: int, roles_differ: bool) -> None:
    random = Random(seed)
    cache = PrefixCache(PagePool(num_pages), roles_differ=roles_differ)
    memory: dict[int, tuple[object, ...]] = {}
    live: list[Sequence] = []
    for _ in range(60):
        if random.random() < 0.5 or not live:
            length = random.randrange(1, 300)
            tokens = [random.randrange(2) if at % 64 == 5 else 7 for at in range(length)]
            start = Sequence(cache, random.choice("ab"), tokens, random.randrange(1, length + 1))
            assert len(start.lease.pages) * 64 < length
            for at, page in enumerate(start.lease.pages):
                key, ids, prompt = start.content(at)
                found = memory[page]
                assert found[:2] == (key, ids) and (found[2] == prompt or not roles_differ)
            if not cache.grow(start.lease, length):
                assert pages_for(length) - len(start.lease.pages) > cache.num_free
                cache.end(start.lease)
                continue
            start.done = 64 * len(start.lease.path)
            live.append(start)
        elif random.random() < 0.6:
            one = random.choice(live)
            new = min(len(one.tokens), one.done + random.randrange(1, 130))
            for at in range(one.done // 64, new // 64):
                memory[one.lease.pages[at]] = one.content(at)
            cache.computed(one.lease, one.tokens, one.num_prompt, new)
            one.done = new
        else:
            cache.end(live.pop(random.randrange(len(live))).lease)
        check(cache, [one.lease for one in live])
    for one in live:
        cache.end(one.lease)
    assert cache.num_free == num_pages
    cache.clear()
    assert cache.pool.num_free == num_pages and cache.num_kept == 0


def check(cache: PrefixCache, leases: list[Lease]) -> None:
    own = [page for lease in leases for page in lease.pages[len(lease.path) :]]
    shared = {page for lease in leases for page in lease.pages[: len(lease.path)]}
    assert len(own) == len(set(own)) and not shared & set(own)
    assert len(own) + len(shared) == cache.pool.num_pages - cache.num_free
    assert cache.num_free == cache.pool.num_free + cache.num_kept


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = PrefixCache(PagePool(4))
    for name in (1, 2):
        one = Sequence(cache, "", [name] * 129, 129)
        assert cache.grow(one.lease, 128)
        cache.computed(one.lease, one.tokens, 129, 128)
        cache.end(one.lease)
    cache.end(cache.begin("", [1] * 129, 129))  # used again
    wanted = Lease("")
    assert cache.grow(wanted, 100)
    assert len(cache.begin("", [1] * 129, 129).path) == 2
    assert len(cache.begin("", [2] * 129, 129).path) == 0


def test_roles_keep_pages_apart() -> None:
    cache = PrefixCache(PagePool(4), roles_differ=True)
    one = Sequence(cache, "", [1] * 129, 60)
    assert cache.grow(one.lease, 129)
    cache.computed(one.lease, one.tokens, 60, 129)
    assert not cache.begin("", [1] * 129, 129).path
    assert len(cache.begin("", [1] * 129, 60).path) == 2


def test_what_is_read_again_and_again_leaves_no_trail() -> None:
    """A server whose cache is never full evicts nothing for weeks."""
    cache, chats = PrefixCache(PagePool(8)), [[1] * 129, [1] * 64 + [2] * 65, [3] * 129]
    for turn in range(1000):
        tokens = chats[turn % 3]
        lease = cache.begin("", tokens, 129)
        assert cache.grow(lease, 129)
        cache.computed(lease, tokens, 129, 129)
        cache.end(lease)
    assert len(cache._idle) <= 2 * 8 and cache.num_free == 8
    assert cache.grow(Lease(""), 8 * 64)  # all of them can still be had


def make_engine(**options: object) -> Engine:
    settings: dict[str, object] = {"eos_ids": [EOS], "max_context": 400, "num_pages": 20}
    return Engine(Rowwise(), make_tokenizer(), **settings | options)  # type: ignore[arg-type]


def run(engine: Engine, requests: list[Request]) -> list[tuple[tuple[int, ...], int]]:
    replies = [engine.submit(request) for request in requests]
    while engine.has_work:
        engine.step()
    return [(r.result().token_ids, r.result().usage.cached_tokens) for r in replies]


def test_warm_and_cold_replies_are_equal() -> None:
    random = Random(0)
    start = [random.randrange(250) for _ in range(200)]
    asked = [Request(prompt_ids=(*start, i, 7), params=GREEDY) for i in range(4)]
    cold = [run(make_engine(), [one])[0] for one in asked]
    engine = make_engine(prefix_cache=True)
    warm = [run(engine, [one])[0] for one in asked]
    assert [ids for ids, _ in warm] == [ids for ids, _ in cold]
    assert [cached for _, cached in cold] == [0, 0, 0, 0]
    assert [cached for _, cached in warm] == [0, 192, 192, 192]
    together = run(make_engine(prefix_cache=True), asked)
    assert [ids for ids, _ in together] == [ids for ids, _ in cold]


def test_a_second_turn_reads_the_first() -> None:
    engine = make_engine(prefix_cache=True)
    first = tuple(range(100))
    ((reply, _),) = run(engine, [Request(prompt_ids=first, params=GREEDY)])
    ((_, cached),) = run(engine, [Request(prompt_ids=(*first, *reply, 1, 2), params=GREEDY)])
    assert cached == 64


def test_other_keys_share_nothing() -> None:
    engine = make_engine(prefix_cache=True)
    ids = tuple(range(130))
    found = [run(engine, [Request(prompt_ids=ids, params=GREEDY, key=k)])[0] for k in "aba"]
    assert [cached for _, cached in found] == [0, 0, 128]
    assert len({ids for ids, _ in found}) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_over_few_pages(seed: int) -> None:
    """Sharing, eviction and preemption at once: the tokens of each are those it has alone."""
    random = Random(seed)
    starts = [[random.randrange(250) for _ in range(random.randrange(60, 140))] for _ in range(3)]
    asked = []
    for i in range(10):
        ids = (
            *random.choice(starts),
            *(random.randrange(250) for _ in range(random.randrange(60))),
        )
        params = SamplingParams(seed=i, max_tokens=random.randrange(1, 80), ignore_eos=True)
        asked.append(Request(prompt_ids=ids, params=params, key=random.choice("ab")))
    alone = [run(make_engine(), [one])[0][0] for one in asked]
    engine = make_engine(prefix_cache=True, num_pages=9, max_seqs=4, max_rows=50)
    assert [ids for ids, _ in run(engine, asked)] == alone
    assert engine.cache.num_free == 9
