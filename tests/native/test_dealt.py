"""Steps of 64 rows a thread and more, where each thread takes rows instead of columns: the bits of
one thread, which are those of small steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwell import _core
from qwell.model.batch import Batch
from qwell.native import NativeModel
from tests.native.test_adapter import with_adapter
from tests.native.test_program import tokens
from tests.native.tiny import open_native, tiny

LENS, PAST, PROMPTS = (100, 60, 1, 50), (0, 20, 70, 0), (100, 20, 70, 4)
"""Rows, tokens before them, and prompt tokens of four sequences: 104 rows of prompts and 107 of
replies, so that with two threads or three one has rows of both."""
PAGES = [[0, 1], [2, 3], [4, 5], [6]]
ISAS = sorted({"scalar", "emulated-pairs", _core.isa_available()[-1]})


def read(model: NativeModel, most: int) -> np.ndarray:
    """Logits of all rows, in steps of at most so many rows of each sequence."""
    kv, texts = model.new_kv(7), [tokens(p + n, seed=n) for p, n in zip(PAST, LENS, strict=True)]
    for i in (1, 2):
        model.step(Batch.make([texts[i][: PAST[i]]], kv=kv, pages=[PAGES[i]], logits="none"))
    done, out = list(PAST), [[] for _ in LENS]
    while left := [i for i in range(4) if done[i] < len(texts[i])]:
        take = {i: texts[i][done[i] :][:most] for i in left}
        batch = Batch.make(
            list(take.values()),
            past=[done[i] for i in take],
            prompt_len=[PROMPTS[i] for i in take],
            logits="all",
            kv=kv,
            pages=[PAGES[i] for i in take],
        )
        logits = iter(model.step(batch))
        for i, rows in take.items():
            out[i] += [next(logits) for _ in rows]
            done[i] += len(rows)
    return np.stack([row for rows in out for row in rows])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["Q5_0", "BF16", "F16"])
def test_threads_and_steps(
    dtype: str, isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWELL_FORCE_ISA", isa)
    checkpoint, pack = tiny(tmp_path, dtype)
    want = read(open_native(checkpoint, pack, num_threads=1), 30)
    for threads in (1, 2, 3):
        model = open_native(checkpoint, pack, num_threads=threads)
        np.testing.assert_array_equal(read(model, 256), want)


def test_adapters(tmp_path: Path) -> None:
    checkpoint, pack, loras = with_adapter(tmp_path, "Q5_0", 16)
    want = read(open_native(checkpoint, pack, adapters=loras, num_threads=1), 30)
    for threads in (2, 3):
        model = open_native(checkpoint, pack, adapters=loras, num_threads=threads)
        np.testing.assert_array_equal(read(model, 256), want)
