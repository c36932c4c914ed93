"""A row's logits are a function of the tokens before it and of how many of them were prompt.

Bit for bit, on every kernel table: whatever the threads, the neighbours in the batch, the chunks,
the pages, and what earlier steps left in memory. Only runs of one table are compared here: that
tables agree is for test_kernels and test_program.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from functools import cache
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell import _core
from qwell.model.batch import PAGE_SIZE, Batch
from qwell.native import NativeModel
from tests.native.bits import F32, assert_same_bits
from tests.native.talks import MAX_ROWS, Reader, Talk, poisonable, read_alone, read_in_chunks
from tests.native.tiny import open_native

ISAS = _core.isa_available()
FORMATS = ("Q5_0", "BF16", "Q4_K")
# Scalar loops are slow: they see one format, and no context of 32,768 keys.
CASES = [(i, d) for i in ISAS for d in FORMATS if d == "Q5_0" or i != "scalar"]
FAR = [(i, n) for i in ISAS for n in (1010, 2039, 32_764) if n == 1010 or i != "scalar"]
Opened = Callable[..., NativeModel]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """opened(isa, dtype, threads): one model each for the whole file."""
    folder = tmp_path_factory.mktemp("invariance")
    pack = cache(lambda dtype: poisonable(folder, dtype))

    @cache
    def model(isa: str, dtype: str = "Q5_0", threads: int = 2) -> NativeModel:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QWELL_FORCE_ISA", isa)
            found = open_native(*pack(dtype), num_threads=threads, max_rows=MAX_ROWS)
        assert found.isa == isa
        return found

    return model


@pytest.mark.parametrize(("isa", "dtype"), CASES)
def test_threads_and_chunks(isa: str, dtype: str, opened: Opened) -> None:
    """Chunks of 1, 17, 256 and the whole, over four pages and a border of 256."""
    talk = Talk.random(270, 260, seed=1)
    want = read_alone(opened(isa, dtype, 1), talk)
    for threads in (1, 2):
        for sizes in ([1], [17], [256], [MAX_ROWS], [63, 2, 64]):
            got = read_in_chunks(opened(isa, dtype, threads), talk, sizes, seed=threads)
            assert_same_bits(got, want, f"{threads} threads, chunks of {sizes}")


@pytest.mark.parametrize(("isa", "dtype"), CASES)
def test_a_batch_of_replies(isa: str, dtype: str, opened: Opened) -> None:
    """1, 3, 16 and 64 replies in step, of different ages; their prompts came in crumbs."""
    talks = [Talk.random(8 + 7 * i % 90, 1 + 5 * i % 70, seed=i) for i in range(64)]
    talks = [Talk(t.ids, min(t.prompt, len(t.ids) - 3)) for t in talks]
    want = [read_alone(opened(isa, dtype, 1), talk) for talk in talks]
    for count in (1, 3, 16, 64):
        for threads in (1, 2):
            reader = Reader(opened(isa, dtype, threads), talks[:count], seed=count)
            while left := {i: len(t.ids) - d for i, (t, d) in enumerate(zip(talks, reader.done))}:
                left = {i: n for i, n in left.items() if i < count and n > 3}
                if not left:
                    break
                reader.step({i: min(n - 3, MAX_ROWS // count) for i, n in left.items()})
            for _ in range(3):
                reader.step(dict.fromkeys(range(count), 1))
            for i in range(count):
                assert_same_bits(reader.logits(i), want[i], f"talk {i} of {count}, {threads}")


def random_plan(reader: Reader, rng: Random) -> None:
    """Reads everything in random steps: any talks, any numbers of rows, across the prompts' ends
    (as after an eviction, when a reply is computed again in chunks)."""
    while live := [i for i, t in enumerate(reader.talks) if reader.done[i] < len(t.ids)]:
        chosen = live if rng.random() < 0.3 else [i for i in live if rng.random() < 0.6]
        rows, left = {}, MAX_ROWS
        for i in chosen or live[:1]:
            rest = len(reader.talks[i].ids) - reader.done[i]
            rows[i] = min(rest, left, rng.choice((1, 1, 2, 4, 5, 17, 64, 150)))
            left -= rows[i]
            if not left:
                break
        reader.step(rows)


@pytest.mark.parametrize("dtype", FORMATS)
@settings(max_examples=25, deadline=None)
@given(rng=st.randoms())
def test_random_plans(dtype: str, opened: Opened, rng: Random) -> None:
    """Prompts and replies of several talks in any mixture, over poisoned memory."""
    isa, threads = rng.choice(ISAS), rng.choice((1, 2))
    talks = []
    for _ in range(rng.randint(1, 7)):
        length = rng.choice((1, 2, 5, 40, 64, 65, 90, 140))
        talks.append(Talk.random(length, rng.randint(1, length), seed=rng.randint(0, 999)))
    seed = rng.randint(0, 999)
    reader = Reader(opened(isa, dtype, threads), talks, poison=dtype != "Q4_K", seed=seed)
    random_plan(reader, rng)
    for i, talk in enumerate(talks):
        want = read_alone(opened(isa, dtype, 3 - threads), talk)
        assert_same_bits(reader.logits(i), want, f"{isa}, {threads} threads, talk {i}")


@pytest.mark.parametrize(("isa", "dtype"), [case for case in CASES if case[1] != "Q4_K"])
def test_what_was_left_in_memory(isa: str, dtype: str, opened: Opened) -> None:
    """NaN in every stale page, slot and scratch buffer reaches no result, at any row count."""
    talk = Talk.random(140, 120, seed=2)
    want = read_alone(opened(isa, dtype, 1), talk)
    assert np.isfinite(want).all()
    for threads in (1, 2):
        for sizes in ([1], [2, 3, 4, 5, 16], [33], [MAX_ROWS]):
            got = read_in_chunks(opened(isa, dtype, threads), talk, sizes, poison=True)
            assert_same_bits(got, want, f"{threads} threads, chunks of {sizes}")


def read_far(model: NativeModel, past: int, plan: list[list[int]], prompts: bool) -> list[F32]:
    """Logits of two sequences that go on after `past` tokens, by the rows of each step.

    The past is three pages over and over: a far position without the work of reaching it.
    """
    rows = [sum(step[s] for step in plan) for s in (0, 1)]
    talks = [Talk.random(n, n, seed=past + s) for s, n in enumerate(rows)]
    pages = -(-(past + max(rows)) // PAGE_SIZE)
    first = past // PAGE_SIZE - 1  # pages from here on are the sequence's own
    kv = model.new_kv(3 + 2 * (pages - first))
    common = Talk.random(3 * PAGE_SIZE, 3 * PAGE_SIZE, seed=past)
    model.step(Batch.make([common.ids], kv=kv, pages=[[0, 1, 2]], logits="none"))
    ends = [list(range(3 + s * (pages - first), 3 + (s + 1) * (pages - first))) for s in (0, 1)]
    tables = [[p % 3 for p in range(first)] + own for own in ends]
    start, done, logits = first * PAGE_SIZE, [0, 0], [[], []]
    for s in (0, 1):  # from the first own page up to the past
        lead = common.ids[: past - start]
        model.step(Batch.make([lead], past=[start], kv=kv, pages=[tables[s]], logits="none"))
    for step in plan:
        live = [s for s in (0, 1) if step[s]]
        batch = Batch.make(
            [talks[s].ids[done[s] : done[s] + step[s]] for s in live],
            past=[past + done[s] for s in live],
            prompt_len=[past + rows[s] if prompts else 1 for s in live],
            logits="all",
            kv=kv,
            pages=[tables[s] for s in live],
        )
        found = model.step(batch)
        for s in live:
            logits[s].append(found[: step[s]])
            found = found[step[s] :]
            done[s] += step[s]
    return [np.concatenate(rows) for rows in logits]


@pytest.mark.parametrize("prompts", [True, False], ids=["prompt", "reply"])
@pytest.mark.parametrize(("isa", "past"), FAR)
def test_long_contexts(isa: str, past: int, prompts: bool, opened: Opened) -> None:
    """Rows on both sides of a border of 1,024 keys, where long attention may be cut."""
    rows = 20 if past < 10_000 else 8
    want = read_far(opened(isa, threads=1), past, [[rows, 0], [0, rows]], prompts)
    assert all(np.isfinite(logits).all() for logits in want)
    plans = ([[1, 0]] * rows + [[0, 1]] * rows, [[1, 1]] * rows, [[3, rows], [rows - 3, 0]])
    for threads in (1, 2):
        for plan in plans:
            got = read_far(opened(isa, threads=threads), past, plan, prompts)
            for s in (0, 1):
                assert_same_bits(got[s], want[s], f"{threads} threads, {plan[:2]}")


def test_rules_of_the_caller(opened: Opened) -> None:
    """The caller is one of the workers: rounding upward in its thread must not change a bit."""
    upward = {"x86_64": 0x800, "AMD64": 0x800, "aarch64": 0x400000, "arm64": 0x400000}
    libm, mode = ctypes.CDLL(None), upward[platform.machine()]
    talk = Talk.random(80, 70, seed=3)
    want = read_alone(opened(ISAS[-1], threads=1), talk)
    before = libm.fegetround()
    for threads in (1, 2):
        model = opened(ISAS[-1], threads=threads)  # what is computed at a load is not in question
        try:
            assert libm.fesetround(mode) == 0
            got = read_alone(model, talk)
            assert libm.fegetround() == mode  # and the caller's rules are given back
        finally:
            libm.fesetround(before)
        assert_same_bits(got, want, f"{threads} threads")
