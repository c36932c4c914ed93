"""A reply is one answer: what else runs, how prompts are cut, threads, restarts change no bit.

The hunt of hunt.py on a tiny native model with every kernel table, over two processes, and (slow)
on the official 0.5B. `make proof-one-answer` runs the last for hours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell import _core
from qwell.checkpoint import open_checkpoint
from qwell.engine.types import F32
from qwell.model.batch import Batch
from qwell.native import NativeModel
from tests.engine.hunt import Difference, Facts, Limits, draw_schedule, hunt, neighbours
from tests.engine.tiny import NUM_TOKENS, VOCAB_SIZE, FakeBackend, make_tokenizer
from tests.native.tiny import open_native, tiny

ROOT = Path(__file__).parents[2]
ISAS = _core.isa_available()
# Random bytes are seldom letters, often half of a character: U+FFFD.
STOPS = ("a", "\ufffd\ufffd", "\ufffda", "b\ufffd", "\x00")
LIMITS = Limits(NUM_TOKENS, STOPS, requests=6, reply=16)
Opened = Callable[..., NativeModel]
SIZES = {"hidden_size": 96, "num_attention_heads": 6, "intermediate_size": 160}
"""Three query heads a key head, and sizes that fill no panel."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed model."""
    folder = tmp_path_factory.mktemp("one-answer")
    tiny(folder, "Q5_0", vocab_size=VOCAB_SIZE, **SIZES)
    return folder


@pytest.fixture(scope="module")
def bf16_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in bf16, where roles differ on more CPUs."""
    folder = tmp_path_factory.mktemp("one-answer-bf16")
    tiny(folder, "BF16", vocab_size=VOCAB_SIZE, **SIZES)
    return folder


def open_in(folder: Path, threads: int) -> NativeModel:
    gguf = folder / "model.gguf"
    checkpoint = open_checkpoint(gguf if gguf.exists() else folder / "model")
    return open_native(checkpoint, folder / "pack", num_threads=threads)


@pytest.fixture(scope="module")
def opened(folder: Path, bf16_folder: Path) -> Opened:
    """opened(isa, threads, bf16=False): one model each for the whole file."""

    @cache
    def model(isa: str, threads: int, bf16: bool = False) -> NativeModel:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QWELL_FORCE_ISA", isa)
            return open_in(bf16_folder if bf16 else folder, threads)

    return model


@settings(max_examples=100, deadline=None)
@given(rng=st.randoms())
def test_schedules(opened: Opened, rng: Random) -> None:
    isa = rng.choice((*ISAS, "emulated", "emulated-pairs"))
    threads, bf16 = rng.choice((1, 2)), rng.random() < 0.5
    schedule = draw_schedule(rng, LIMITS)
    crowd, alone = opened(isa, threads, bf16), opened(isa, 3 - threads, bf16)
    hunt(schedule, make_tokenizer(), crowd, alone, Facts())


def test_the_hunt_meets_what_it_hunts(opened: Opened) -> None:
    """Evictions, cancels, stop strings and shared pages do happen, and rows are compared."""
    facts = Facts()
    for seed in range(20):
        schedule = draw_schedule(Random(seed), LIMITS)
        hunt(schedule, make_tokenizer(), opened(ISAS[-1], 2), opened(ISAS[-1], 1), facts)
    assert facts.replies > 50 and facts.compared > 500, str(facts)
    assert facts.evictions > 10 and facts.cancelled > 3 and facts.stopped > 0, str(facts)
    assert facts.cached > 500, str(facts)


class Faulty(FakeBackend):
    """A back end whose logits are one step of a float off in some batches."""

    def __init__(self, model: NativeModel, wrong: Callable[[Batch], bool]) -> None:
        self.model, self.wrong, self.config = model, wrong, model.config
        self.max_rows = model.max_rows
        self.new_kv = model.new_kv

    def step(self, batch: Batch) -> F32:
        logits = self.model.step(batch)
        if len(logits) and self.wrong(batch):
            logits[-1, 7] = np.nextafter(logits[-1, 7], np.float32(9))
        return logits


@pytest.mark.parametrize(
    "wrong",
    [
        lambda batch: batch.num_seqs == 3,
        lambda batch: batch.num_rows > 60,
        lambda batch: batch.page_table[0, 0] != 0,
    ],
)
def test_the_hunt_finds_one_bit(opened: Opened, wrong: Callable[[Batch], bool]) -> None:
    model = opened(ISAS[-1], 2)
    with pytest.raises(Difference, match="logits after"):
        for seed in range(20):
            schedule = draw_schedule(Random(seed), LIMITS)
            hunt(schedule, make_tokenizer(), Faulty(model, wrong), model, Facts())


def fingerprint(folder: Path, threads: int) -> str:
    """All rows of logits of two small schedules."""
    facts, model = Facts(), open_in(folder, threads)
    for seed in range(2):
        schedule = draw_schedule(Random(seed), replace(LIMITS, requests=3, reply=6))
        hunt(schedule, make_tokenizer(), model, model, facts)
    return facts.fingerprint()


def test_restarts_and_busy_neighbours(folder: Path) -> None:
    """Two more processes, one of them among neighbours that take its cores, see the same bits."""
    call = "import sys; from pathlib import Path; from tests.engine import test_one_answer as t; "
    call += "print(t.fingerprint(Path(sys.argv[1]), 2))"
    command = [sys.executable, "-c", call, str(folder)]
    found = []
    for number in (0, os.cpu_count() or 1):
        with neighbours(number):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=120)
        found.append(done.stdout.decode().strip())
    assert found == [fingerprint(folder, 1)] * 2


@pytest.mark.slow
@pytest.mark.weights
def test_the_real_model(official_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    """One minute of the proof: no difference, so no file that tells of one."""
    command = [sys.executable, "tools/proof_one_answer.py", "--minutes", "1", "--out", tmp_path]
    command += ["--model", official_gguf("0.5b")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0 and not list(tmp_path.iterdir())
    assert "0 differences" in done.stdout.splitlines()[-1]
