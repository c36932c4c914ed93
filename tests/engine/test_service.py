"""The service: many threads, one engine; every job ends exactly once, and nothing is left over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from qwell.engine.grammar_spec import GrammarSpec
from qwell.engine.jobs import Event, Failed, Finished, Job, Limits, Overloaded, Started, Token
from qwell.engine.llm import LLM
from qwell.engine.service import Service
from qwell.engine.types import Backend, Completion, SamplingParams, Timings
from qwell.errors import ContextLengthError, UsageError
from qwell.model.batch import Batch
from tests.engine.tiny import FakeBackend, Rowwise, Scripted, make_llm

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
ENDLESS = replace(GREEDY, max_tokens=None)


class Heard:
    """What a job was told, in order."""

    def __init__(self, n: int = 1) -> None:
        self.events: list[Event] = []
        self._left, self._ended, self._begun = n, threading.Event(), threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Token):
            self._begun.set()
        if isinstance(event, Finished | Failed):
            self._left -= 1
            if self._left == 0:
                self._ended.set()
                self._begun.set()

    def begun(self) -> None:
        assert self._begun.wait(20), self.events

    def last(self, choice: int = 0) -> Event:
        assert self._ended.wait(20), self.events
        return [event for event in self.events if event.choice == choice][-1]

    def completion(self, choice: int = 0) -> Completion:
        last = self.last(choice)
        assert isinstance(last, Finished), last
        return last.completion


Make = Callable[..., Service]


@pytest.fixture
def make() -> Iterator[Make]:
    """make(backend, limits, **of the LLM): services that are closed, and leave no page."""
    made: list[tuple[Service, LLM]] = []

    def new(backend: Backend | None = None, limits: Limits | None = None, **over: Any) -> Service:
        llm = make_llm(backend or never_ending(), **over)
        made.append((Service(llm, limits), llm))
        return made[-1][0]

    yield new
    for service, llm in made:
        service.close()
        assert not service.healthy and not llm.engine.has_work
        assert llm.engine.cache.num_free == llm.engine.cache.pool.num_pages
        assert service.snapshot().queued == service.snapshot().queued_tokens == 0


def never_ending() -> Scripted:
    """Counts letters up, from what it was given."""
    return Scripted(lambda known: 64 + (len(known) + known[0]) % 26)


class Slow(FakeBackend):
    """Another back end that takes its time."""

    def __init__(self, inner: Scripted, seconds: float = 0.02) -> None:
        self.inner, self.config, self.seconds = inner, inner.config, seconds
        self.pause = 0.0
        """How long the next step stands still."""

    def new_kv(self, num_pages: int) -> Any:
        return self.inner.new_kv(num_pages)

    def step(self, batch: Batch) -> Any:
        time.sleep(self.seconds + self.pause)
        self.pause = 0.0
        return self.inner.step(batch)


def wait_for(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


def job(*ids: int, **over: Any) -> Job:
    return Job(**({"prompt_ids": ids or (1, 2, 3), "params": GREEDY} | over))


def test_a_job_from_start_to_end(make: Make) -> None:
    service, heard = make(), Heard()
    service.submit(job(), heard)
    whole = heard.completion()
    assert len(whole.token_ids) == 6 and whole.finish_reason == "length"
    assert isinstance(heard.events[0], Started)
    pieces = [event.piece for event in heard.events if isinstance(event, Token)]
    assert "".join(piece.text for piece in pieces) == whole.text
    assert sum((piece.token_ids for piece in pieces), ()) == whole.token_ids
    found = service.snapshot()
    assert (found.tokens_in, found.tokens_out, found.running, found.queued) == (3, 6, 0, 0)
    assert sum(found.ttft_seconds.counts) == 1 and sum(found.gap_seconds.counts) == 5


def test_a_crowd_from_many_threads_equals_each_alone(make: Make) -> None:
    rng = Random(7)
    jobs = [
        job(
            *(rng.randrange(60) for _ in range(rng.choice((1, 30, 64, 129)))),
            params=replace(GREEDY, temperature=rng.choice((0, 1.0)), seed=rng.randrange(5)),
            key=rng.choice("ab"),
            priority=rng.randrange(3),
        )
        for _ in range(24)
    ]
    backend = Rowwise()
    crowd, heard = make(backend, max_seqs=7, max_rows=40), [Heard() for _ in jobs]
    threads = [
        threading.Thread(target=crowd.submit, args=pair) for pair in zip(jobs, heard, strict=True)
    ]
    for thread in threads:
        thread.start()
    llm = make_llm(backend)
    for thread, one, asked in zip(threads, heard, jobs, strict=True):
        thread.join()
        assert lasting(one.completion()) == lasting(llm.generate(asked.prompt_ids, asked.params))


def lasting(completion: Completion) -> Completion:
    usage = replace(completion.usage, cached_tokens=0)
    return replace(completion, timings=Timings(), usage=usage)


def test_choices_share_the_prompt(make: Make) -> None:
    backend = never_ending()
    service, heard = make(backend, max_context=1024), Heard(3)
    service.submit(job(*range(60), *range(60), *range(60), n=3), heard)
    assert {heard.completion(i).text for i in range(3)} == {heard.completion().text}
    rows = sum(batch.num_rows for batch in backend.batches)
    # Two whole pages of the three are computed once.
    assert rows == 180 + 2 * (180 - 128) + 3 * 5
    other = Heard()
    service.submit(job(*range(60), *range(60), *range(60), key="x"), other)
    other.completion()
    assert sum(batch.num_rows for batch in backend.batches) == rows + 180 + 5
    assert service.snapshot().cache_hit_tokens == 0  # nothing was there when they came
    again = Heard()
    service.submit(job(*range(60), *range(60), *range(60)), again)
    assert again.completion().usage.cached_tokens == 128


def test_a_cancel_ends_a_job_wherever_it_is(make: Make) -> None:
    service = make(Slow(never_ending()), max_seqs=1, max_context=50_000)
    running, waiting, kept = Heard(), Heard(), Heard()
    first = service.submit(job(params=ENDLESS), running)
    second = service.submit(job(params=ENDLESS), waiting)
    running.begun()
    second.cancel()
    assert waiting.completion().finish_reason == "cancelled" and len(waiting.events) == 1
    service.submit(job(), kept)
    first.cancel()
    first.cancel()
    assert running.completion().finish_reason == "cancelled"
    assert running.completion().token_ids
    assert kept.completion().finish_reason == "length"
    first.cancel()  # long over


def test_deadlines(make: Make) -> None:
    service = make(Slow(never_ending()), max_seqs=1, max_context=50_000)
    running, waiting = Heard(), Heard()
    service.submit(job(params=ENDLESS, deadline_s=0.3), running)
    service.submit(job(params=ENDLESS, deadline_s=0.1), waiting)
    assert waiting.completion().finish_reason == "deadline"
    assert waiting.completion().token_ids == ()
    assert running.completion().finish_reason == "deadline"
    assert running.completion().token_ids


def test_faults(make: Make) -> None:
    """Logits that are not finite end one job; a step that raises ends those in it; others live."""
    broken = {"step": False}

    def next_id(known: list[int]) -> int:
        if broken["step"]:
            raise RuntimeError("the step fell over")
        return -1 if known[0] == 9 else 70

    service = make(Scripted(next_id))
    bad, good = Heard(), Heard()
    service.submit(job(9, 9), bad)
    service.submit(job(), good)
    failed = bad.last()
    assert isinstance(failed, Failed) and "not finite" in str(failed.error)
    good.completion()
    broken["step"], hit = True, Heard()
    service.submit(job(), hit)
    assert isinstance(hit.last(), Failed)
    broken["step"], after = False, Heard()
    service.submit(job(), after)
    assert after.completion().text and service.healthy


def test_a_listener_that_raises_ends_its_own_job(make: Make) -> None:
    service, other = make(), Heard()

    def fall(event: Event) -> None:
        raise RuntimeError("nobody is there")

    service.submit(job(params=ENDLESS), fall)
    service.submit(job(), other)
    other.completion()
    assert service.snapshot().running == 0


def test_impossible_jobs_are_told_at_once(make: Make) -> None:
    service = make()
    for wrong, error in (
        (job(n=0), UsageError),
        (job(9999), UsageError),
        (job(*[1] * 600), ContextLengthError),
        (replace(job(), prompt_ids=()), UsageError),
    ):
        with pytest.raises(error):
            service.submit(wrong, Heard())
    full = Heard()
    service.submit(job(*[1] * 512), full)
    assert full.completion().finish_reason == "length"


def test_the_queue_is_bounded(make: Make) -> None:
    limits = Limits(max_queued=3, max_queued_tokens=100)
    service = make(Slow(never_ending()), limits, max_seqs=1, max_context=20_000)
    first = Heard()
    held = [service.submit(job(params=ENDLESS), first)]
    first.begun()
    held += [service.submit(job(params=ENDLESS), Heard()) for _ in range(2)]
    with pytest.raises(Overloaded, match="too many requests wait") as refused:
        service.submit(job(n=2), Heard())
    assert refused.value.reason == "queue" and refused.value.retry_after_s >= 1
    with pytest.raises(Overloaded, match="prompt tokens"):
        service.submit(job(*range(98)), Heard())
    assert service.snapshot().refusals == {"queue": 1, "tokens": 1}
    for ticket in held:
        ticket.cancel()


def test_a_long_wait_is_refused(make: Make) -> None:
    service = make(Slow(never_ending(), 0.05), Limits(max_wait_s=0.4), max_seqs=1)
    for _ in range(3):  # what a reply takes is learned
        heard = Heard()
        service.submit(job(), heard)
        heard.completion()
    held = [service.submit(job(), Heard())]
    with pytest.raises(Overloaded, match="estimated wait") as refused:
        held += [service.submit(job(), Heard()) for _ in range(8)]
    assert refused.value.reason == "wait" and 1 <= len(held) < 8


def test_new_grammars_wait_within_a_bound(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long to compile keeps neither known grammars nor jobs without one waiting."""
    service = make(limits=Limits(max_compiling=2))
    free = replace(GREEDY, ignore_eos=False)
    known = replace(free, grammar=GrammarSpec.regex("[a-z]{3}"))
    before = Heard()
    service.submit(job(params=known), before)
    assert len(before.completion().text) == 3
    compiler, go_on = service._engine.grammars, threading.Event()
    compile_it = compiler._compile

    def slowly(spec: GrammarSpec) -> Any:
        assert go_on.wait(20)
        return compile_it(spec)

    monkeypatch.setattr(compiler, "_compile", slowly)
    new = [replace(free, grammar=GrammarSpec.regex(f"[a-z]{{{n}}}")) for n in (1, 2, 4)]
    slow = [Heard(), Heard()]
    threads = [
        threading.Thread(target=service.submit, args=(job(params=params), heard))
        for params, heard in zip(new, slow, strict=False)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: service._admission.num_compiling == 2)
    with pytest.raises(Overloaded) as refused:
        service.submit(job(params=new[2]), Heard())
    assert refused.value.reason == "grammars"
    for params in (known, GREEDY):
        heard = Heard()
        service.submit(job(params=params), heard)
        heard.completion()
    go_on.set()
    for thread in threads:
        thread.join()
    assert [len(heard.completion().text) for heard in slow] == [1, 2]


def test_an_idle_service_gives_memory_back_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    monkeypatch.setattr("qwell.engine.service.IDLE_S", 0.05)
    monkeypatch.setattr("qwell.engine.service.give_back", lambda: given.append(time.monotonic()))
    service = make()
    for count in (1, 2):
        heard = Heard()
        service.submit(job(), heard)
        heard.completion()
        wait_for(lambda count=count: len(given) == count)
    time.sleep(0.3)
    assert len(given) == 2


def test_what_was_cancelled_is_not_waited_for(make: Make) -> None:
    service = make(Slow(never_ending()), Limits(max_wait_s=1), max_context=20_000)
    heard = Heard()
    ticket = service.submit(job(*range(60), *([7] * 15_000)), heard)
    wait_for(lambda: service.snapshot().running == 1)
    assert service.snapshot().estimated_wait_s > 1
    with pytest.raises(Overloaded):
        service.submit(job(), Heard())
    ticket.cancel()
    heard.last()
    assert service.snapshot().estimated_wait_s == 0
    after = Heard()
    service.submit(job(), after)
    assert len(after.completion().token_ids) == 6


def test_a_pause_is_no_reason_to_refuse(make: Make) -> None:
    """The process stands still for a while (it was stopped, the machine slept) in a step that reads
    a prompt, then in one that does not: what is measured there says nothing of the next steps."""
    backend = Slow(never_ending(), 0.001)
    service = make(backend, Limits(max_wait_s=4), max_seqs=8, max_context=2000)
    for length in (100, 40, 3):
        warm = Heard()
        service.submit(job(*[length] * length), warm)
        warm.completion()
    for length in (20, 2):
        backend.pause, stopped = 1.5, Heard()
        service.submit(job(*[length] * length, params=replace(GREEDY, max_tokens=10)), stopped)
        wait_for(lambda: backend.pause == 0)
        crowd = [Heard() for _ in range(16)]
        for i, heard in enumerate(crowd):
            service.submit(job(*[i] * 30), heard)
        for heard in (stopped, *crowd):
            heard.completion()
        assert service.snapshot().refusals == {}
        assert service.snapshot().estimated_wait_s == 0


def test_close_gives_grace_then_cancels(make: Make) -> None:
    service = make(Slow(never_ending()), max_context=50_000)
    short, endless = Heard(), Heard()
    service.submit(job(), short)
    service.submit(job(params=ENDLESS), endless)
    endless.begun()
    service.drain()
    with pytest.raises(Overloaded, match="shutting down"):
        service.submit(job(), Heard())
    begin = time.perf_counter()
    service.close(grace_s=0.5)
    assert 0.4 < time.perf_counter() - begin < 3
    assert short.completion().finish_reason == "length"
    assert endless.completion().finish_reason == "cancelled"
    with pytest.raises(Overloaded):
        service.submit(job(), Heard())
    service.close()


def test_an_idle_service_closes_at_once(make: Make) -> None:
    begin = time.perf_counter()
    make().close(grace_s=30)
    assert time.perf_counter() - begin < 2


def test_prompt_logprobs_are_those_of_the_model(make: Make) -> None:
    backend = Rowwise()
    service, llm = make(backend, max_rows=32), make_llm(backend)
    ids, heard, beside = tuple(range(40, 190)), Heard(), Heard()
    service.submit(job(*ids), beside)  # its pages are not lent to what must be computed
    service.submit(job(*ids, params=replace(GREEDY, prompt_logprobs=2)), heard)
    found = heard.completion().prompt_logprobs
    assert found is not None and len(found) == len(ids) and found[0] is None
    wanted = llm.logprobs(ids)
    for at, one in enumerate(found[1:], 1):
        assert one is not None and one.token_id == ids[at] and len(one.top) == 2
        assert one.logprob == pytest.approx(wanted[at], abs=1e-6)
        assert one.top[0].logprob >= one.top[1].logprob
    assert np.isnan(wanted[0]) or wanted[0] == 0
    assert beside.completion().prompt_logprobs is None
    assert heard.completion().token_ids == beside.completion().token_ids


def test_a_loop_is_told(make: Make) -> None:
    service = make(Scripted(lambda known: 70), max_context=1024)
    heard, short = Heard(), Heard()
    service.submit(job(params=replace(GREEDY, max_tokens=300)), heard)
    service.submit(job(params=replace(GREEDY, max_tokens=100)), short)
    assert heard.completion().detected_loop and not short.completion().detected_loop


def test_random_lives_leave_nothing(make: Make) -> None:
    """Submits, cancels and deadlines at random times; the fixture counts the pages."""
    rng = Random(5)
    service = make(Slow(never_ending(), 0.001), max_seqs=5, max_rows=64, max_context=256)
    before, waiting = threading.active_count(), list[tuple[Heard, int]]()
    for _ in range(300):
        n = rng.choice((1, 1, 3))
        heard = Heard(n)
        length = rng.choice((1, 20, 65, 200))
        ticket = service.submit(
            job(
                *[rng.randrange(3)] * length,
                n=n,
                params=ENDLESS if rng.random() < 0.3 else GREEDY,
                deadline_s=rng.choice((None, 0.02, 0.2)),
                key=rng.choice("ab"),
            ),
            heard,
        )
        waiting.append((heard, n))
        if rng.random() < 0.4:
            threading.Timer(rng.random() * 0.05, ticket.cancel).start()
        if rng.random() < 0.3:
            time.sleep(rng.random() * 0.01)
        while service.snapshot().queued > 200:
            time.sleep(0.01)
    for heard, n in waiting:
        for choice in range(n):
            ends = [heard.last(choice)]
            ends = [e for e in heard.events if isinstance(e, Finished | Failed)]
            assert len([e for e in ends if e.choice == choice]) == 1
    time.sleep(0.1)  # timers end
    assert threading.active_count() <= before
