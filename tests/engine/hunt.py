"""The hunt for a reply that depends on the company it was computed in.

`draw_schedule` draws requests, arrivals, cancels and the settings of two engines from any
`random.Random` (hypothesis brings its own, which shrinks). `hunt` plays the schedule on one engine
and then every request alone on the other, and raises `Difference` at the first that differs. Below
both, a `Witness` looks at every row of logits: it may be a function of the tokens before it and of
how many of them are prompt, of nothing else. Knows no file and no kernel.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import count
from random import Random
from typing import Any

import numpy as np

from qwell.engine.engine import Engine
from qwell.engine.kv_cache import pages_for
from qwell.engine.reply import Reply
from qwell.engine.types import F32, Backend, Completion, Request, SamplingParams, Timings
from qwell.model.batch import I32, PAGE_SIZE, Batch
from qwell.text.tokenizer import Tokenizer
from tests.engine.tiny import FakeBackend


class Difference(AssertionError):
    """Two computations of one thing gave different bits."""


@dataclass
class Facts:
    """What was seen of each row, by what it may depend on; shared by all engines that run the same
    model with the same kernels. And counts, so that a hunt that meets nothing shows."""

    rows: dict[bytes, bytes] = field(default_factory=dict)
    compared: int = 0
    replies: int = 0
    evictions: int = 0
    cached: int = 0
    cancelled: int = 0
    stopped: int = 0

    def __str__(self) -> str:
        return (
            f"{self.compared:,} rows compared, {self.replies:,} replies, {self.cached:,} tokens "
            f"from the cache, {self.evictions:,} evictions, {self.cancelled:,} cancels, "
            f"{self.stopped:,} stop strings"
        )

    def fingerprint(self) -> str:
        """Of all rows, in whatever order they were seen."""
        return blake2b(b"".join(k + v for k, v in sorted(self.rows.items()))).hexdigest()


class Witness(FakeBackend):
    """A back end in front of another: notes which token lies where in which page, so it knows the
    tokens before every row of logits whatever the engine does, and compares rows by them."""

    def __init__(self, backend: Backend, facts: Facts) -> None:
        self.backend, self.facts, self.config = backend, facts, backend.config
        self.keys: set[bytes] = set()
        self.max_rows = backend.max_rows

    def new_kv(self, num_pages: int) -> Any:
        return self.backend.new_kv(num_pages), np.full((num_pages, PAGE_SIZE), -1, np.int32)

    def step(self, batch: Batch) -> F32:
        kv, known = batch.kv
        logits = self.backend.step(replace(batch, kv=kv))
        wanted, done = set(batch.out_rows.tolist()), 0
        assert batch.page_table is not None
        for s, (lo, hi) in enumerate(batch.spans()):
            pages, at = batch.page_table[s], batch.positions[lo:hi]
            known[pages[at // PAGE_SIZE], at % PAGE_SIZE] = batch.input_ids[lo:hi]
            for row in range(lo, hi):
                if row in wanted:
                    end = int(batch.positions[row]) + 1
                    tokens = known[pages[: pages_for(end)]].reshape(-1)[:end]
                    self._compare(tokens, min(int(batch.prompt_len[s]), end), logits[done])
                    done += 1
        return logits

    def _compare(self, tokens: I32, prompt: int, logits: F32) -> None:
        if tokens.min() < 0:
            raise Difference("a row was computed before the tokens it follows")
        key = blake2b(tokens.tobytes() + prompt.to_bytes(4, "little"), digest_size=16).digest()
        found = blake2b(logits.tobytes(), digest_size=16).digest()
        self.keys.add(key)
        if key in self.facts.rows:
            self.facts.compared += 1
            if self.facts.rows[key] != found:
                raise Difference(f"logits after {len(tokens)} tokens, {prompt} of them prompt")
        self.facts.rows[key] = found


@dataclass(frozen=True)
class Limits:
    """What schedules are drawn from: sizes of context, ids, stop strings, requests, tokens."""

    vocab_size: int
    stops: tuple[str, ...]
    contexts: tuple[int, ...] = (320,)
    requests: int = 8
    reply: int = 24


@dataclass(frozen=True)
class Settings:
    """Of one engine."""

    max_context: int
    max_seqs: int
    max_rows: int
    num_pages: int
    prefix_cache: bool = False

    def engine(self, backend: Backend, tokenizer: Tokenizer) -> Engine:
        return Engine(
            backend,
            tokenizer,
            eos_ids=tokenizer.eos_ids,
            max_context=self.max_context,
            max_seqs=self.max_seqs,
            max_rows=self.max_rows,
            num_pages=self.num_pages,
            prefix_cache=self.prefix_cache,
        )


@dataclass(frozen=True)
class Arrival:
    request: Request
    at: int
    """The step before which it is submitted."""
    cancel: int | None
    """The step before which it is cancelled, if it has not ended."""
    after: int | None = None
    """Its prompt begins with the prompt and the reply, as far as that has come, of this arrival:
    the next turn of a conversation."""


@dataclass(frozen=True)
class Schedule:
    crowd: Settings
    alone: Settings
    arrivals: tuple[Arrival, ...]
    read_at: int | None
    """Before this step the logits of the first prompt are read, which takes pages from others."""


def draw_schedule(rng: Random, limits: Limits) -> Schedule:
    """A rush, where many begin at once and all soon need a page more than there is; a talk, whose
    turns share whole pages; or anything."""
    kind = rng.choice(("rush", "talk", "any"))
    rush, talk = kind == "rush", kind == "talk"
    context = min(limits.contexts) if rush else rng.choice(limits.contexts)
    pages = pages_for(context)
    crowd = Settings(
        max_context=context,
        max_seqs=8 if rush else rng.choice((1, 3, 8, 16)),
        max_rows=rng.choice((17, 18, 33, 64, 100, 256)),
        num_pages=pages + (0 if rush else rng.choice((0, 0, 1, 4, 40))),
        prefix_cache=talk or rng.random() < 0.5,
    )
    alone = Settings(context, max_seqs=1, max_rows=rng.choice((2, 48, 256)), num_pages=pages)
    step, arrivals = 0, []
    for _ in range(limits.requests if rush else rng.randint(1, limits.requests)):
        step += 0 if rush else rng.choice((0, 0, 1, 2, 7))
        longest = 64 if rush else context - 20
        request = Request(
            prompt_ids=draw_prompt(rng, limits, longest, talk),
            params=draw_params(rng, limits, rush),
            choice=rng.choice((0, 0, 1)),
            key=rng.choice(("", "", "" if talk else "other", "other")),
            priority=rng.choice((0, 0, 1)),
        )
        cancel = step + rng.randint(0, 12) if rng.random() < 0.15 else None
        after = None
        if arrivals and not rush and rng.random() < (0.7 if talk else 0.2):
            after = rng.randrange(len(arrivals))
            step += rng.choice((0, 3, 12, 25))  # so that there is a reply
            cancel = None
        arrivals.append(Arrival(request, step, cancel, after))
    read_at = rng.randint(0, 20) if rng.random() < 0.2 else None
    return Schedule(crowd, alone, tuple(arrivals), read_at)


def draw_prompt(rng: Random, limits: Limits, longest: int, talk: bool) -> tuple[int, ...]:
    """One of a few texts, cut anywhere, often just before the end of a page: prompts of one
    schedule begin alike, and replies soon need another page. Of a talk it is longer than a page,
    often by one token: all but one of its rows are in the cache."""
    if talk:
        length = rng.choice((65, 100, 128, 129, 130, 193, rng.randint(65, longest)))
    else:
        length = rng.choice((1, 17, 55, 60, 63, 64, 65, 124, rng.randint(1, longest)))
    text = rng.randint(0, 1 if talk else 3)
    ids = np.random.default_rng(text).integers(0, limits.vocab_size, longest)
    return tuple(ids[:length].tolist())


def draw_params(rng: Random, limits: Limits, rush: bool) -> SamplingParams:
    max_tokens = limits.reply if rush else rng.randint(1, limits.reply)
    values: dict[str, Any] = {
        "temperature": rng.choice((0, 0, 0.7, 1, 2.5)),
        "seed": rng.randint(0, 9),
        "max_tokens": max_tokens,
        "min_tokens": rng.choice((0, 0, min(3, max_tokens))),
        "ignore_eos": rng.random() < 0.5,
    }
    options: dict[str, Any] = {
        "top_k": rng.choice((1, 5, 40)),
        "top_p": rng.choice((0.3, 0.9)),
        "min_p": rng.choice((0.02, 0.3)),
        "repetition_penalty": rng.choice((0.8, 1.2)),
        "presence_penalty": rng.choice((-0.5, 1.0)),
        "frequency_penalty": rng.choice((-0.5, 0.5)),
        "logit_bias": {rng.randrange(limits.vocab_size): rng.choice((-100, 2, 5))},
        "stop": (rng.choice(limits.stops),),
        "stop_token_ids": (rng.randrange(limits.vocab_size),),
        "logprobs": rng.choice((0, 3)),
        "prompt_logprobs": rng.choice((0, 2)),
    }
    return SamplingParams(**values, **{k: v for k, v in options.items() if rng.random() < 0.3})


def hunt(
    schedule: Schedule, tokenizer: Tokenizer, crowd: Backend, alone: Backend, facts: Facts
) -> None:
    """Plays `schedule` on `crowd`, then each request on `alone`. Raises Difference."""
    together, single = Witness(crowd, facts), Witness(alone, facts)
    engine = schedule.crowd.engine(together, tokenizer)
    replies = play(engine, schedule.arrivals, schedule.read_at, facts)
    for reply in replies:
        fresh = schedule.alone.engine(single, tokenizer)
        compare(reply, play(fresh, (Arrival(reply.request, 0, None),), None, facts)[0])
        facts.replies += 1
        facts.cached += reply.num_cached
        facts.cancelled += reply.completion is None
        facts.stopped += reply.completion is not None and reply.completion.stop_reason is not None
    if schedule.read_at is not None:
        fresh = schedule.alone.engine(single, tokenizer)
        list(fresh.logits(schedule.arrivals[0].request.prompt_ids, chunk=5))
    if not together.keys <= single.keys:  # say, a reply's row that was called a prompt's
        raise Difference("a row was computed that no request alone computes")


def play(
    engine: Engine, arrivals: tuple[Arrival, ...], read_at: int | None, facts: Facts
) -> list[Reply]:
    """Submits, cancels, reads and steps until nothing is left to do."""
    replies: list[Reply] = []
    last = max(read_at or 0, *(a.at for a in arrivals))
    for step in count():
        replies += [engine.submit(_request(engine, a, replies)) for a in arrivals if a.at == step]
        before = [reply.computed for reply in replies]
        if step == read_at:
            list(engine.logits(arrivals[0].request.prompt_ids))
        for arrival, reply in zip(arrivals, replies):
            if arrival.cancel == step and not reply.is_finished:
                engine.cancel(reply)
        if engine.has_work:
            engine.step()
        elif step >= last:
            break
        facts.evictions += sum(r.computed < n for r, n in zip(replies, before))
    if engine.cache.num_free != engine.cache.pool.num_pages:
        raise Difference("pages are still held after the last reply")
    return replies


def _request(engine: Engine, arrival: Arrival, replies: list[Reply]) -> Request:
    """What is asked when its time has come. A turn that does not fit begins anew."""
    request = arrival.request
    if arrival.after is None or arrival.after >= len(replies):
        return request
    ids = (*replies[arrival.after].tokens, *request.prompt_ids[:3])
    return request if len(ids) > engine.max_context - 20 else replace(request, prompt_ids=ids)


def compare(reply: Reply, single: Reply) -> None:
    """A reply that ran to its end equals the lone one in all but its times; a cancelled one is
    the beginning of it, and one that failed failed alike."""
    found, want = reply.tokens, single.tokens
    if reply.error or single.error:
        if (str(reply.error), found) != (str(single.error), want):
            raise Difference(f"errors {reply.error} and {single.error}: {reply.request}")
    elif reply.completion is None:
        if found != want[: len(found)]:
            raise Difference(f"tokens of a cancelled request: {reply.request}")
    else:
        ends = [_lasting(r.result()) for r in (reply, single)]
        if ends[0] != ends[1]:
            raise Difference(f"completions of {reply.request}: {ends[0]} and {ends[1]}")


def _lasting(completion: Completion) -> Completion:
    """Without what may differ: times, and what was read from the cache."""
    usage = replace(completion.usage, cached_tokens=0)
    return replace(completion, timings=Timings(), usage=usage)


_SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(10**6))"


@contextmanager
def neighbours(number: int) -> Iterator[None]:
    """So many processes that spin meanwhile; if this one is killed, they end."""
    spinning = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(number)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()
