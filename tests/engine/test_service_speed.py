"""What users of the service feel, on the official 0.5B: waits and gaps while a long prompt is
read, and a second turn. Times are of this machine, now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from qwell.engine.jobs import Event, Finished, Job, Token
from qwell.engine.llm import LLM
from qwell.engine.load import load
from qwell.engine.memory import Room
from qwell.engine.service import Service
from qwell.engine.types import SamplingParams
from tests.engine.test_service import Heard

pytestmark = [pytest.mark.slow, pytest.mark.weights]


class Timed(Heard):
    """Also when."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.times = time.perf_counter(), list[float]()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Token | Finished):
            self.times.append(time.perf_counter())
        super().__call__(event)

    @property
    def ttft(self) -> float:
        return self.times[0] - self.begin

    def largest_gap(self, since: float) -> float:
        times = [since, *(t for t in self.times if t > since)]
        return max(b - a for a, b in pairwise(times))


@pytest.fixture(scope="module")
def llm(official_gguf: Callable[[str], Path]) -> LLM:
    return load(str(official_gguf("0.5b")), ctx=16_384, room=Room(max_seqs=64))


@pytest.fixture
def service(llm: LLM) -> Iterator[Service]:
    llm.engine.cache.clear()
    made = Service(llm)
    yield made
    made.close()


def words(llm: LLM, count: int, start: int) -> tuple[int, ...]:
    """So many ids, unlike those of another start."""
    return tuple(1000 + (start * 7919 + at * 31) % 90_000 for at in range(count))


def ask(service: Service, ids: tuple[int, ...], max_tokens: int) -> Timed:
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    heard = Timed()
    service.submit(Job(prompt_ids=ids, params=params), heard)
    return heard


def test_a_long_prompt_does_not_stop_the_others(llm: LLM, service: Service) -> None:
    streams = [ask(service, words(llm, 30, s), 2000) for s in range(3)]
    for stream in streams:
        stream.begun()
    begin, waits = time.perf_counter(), []
    long = ask(service, words(llm, 8000, 50), 1)
    for turn in range(5):
        time.sleep(0.5)
        short = ask(service, words(llm, 20, 100 + turn), 1)
        short.completion()
        waits.append(short.ttft)
    assert not long.times, "the long prompt was over too soon to show anything"
    gap = max(stream.largest_gap(begin) for stream in streams)
    print(f"first tokens {[round(w, 3) for w in waits]} s, largest gap {gap:.3f} s")
    assert max(waits) <= 0.6 and gap <= 0.3
    found = service.snapshot()
    exported = found.gap_seconds
    assert sum(exported.counts[exported.bounds.index(0.3) + 1 :]) == 0


def test_a_second_turn_reads_only_what_is_new(llm: LLM, service: Service) -> None:
    first = ask(service, words(llm, 2000, 7), 30)
    reply = first.completion().token_ids
    turn = (*words(llm, 2000, 7), *reply, *words(llm, 30, 8))
    warm = ask(service, turn, 30)
    again = warm.completion()
    llm.engine.cache.clear()
    cold = ask(service, turn, 30)
    assert cold.completion().token_ids == again.token_ids
    assert again.usage.cached_tokens >= 1984 and cold.completion().usage.cached_tokens == 0
    print(f"warm {warm.ttft:.3f} s, cold {cold.ttft:.3f} s: {warm.ttft / cold.ttft:.1%}")
    assert warm.ttft <= 0.15 * cold.ttft
