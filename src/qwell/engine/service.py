"""Requests of many threads over one engine: one thread owns the program, all else is messages.

A plain form of the service: first come, first served, no shared prefix. It knows no HTTP.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from time import monotonic

from qwell.engine.llm import LLM
from qwell.engine.reply import Reply
from qwell.engine.sampler import largest, log_softmax_at
from qwell.engine.types import Completion, Piece, Request, SamplingParams, TokenLogprob
from qwell.errors import QwellError


@dataclass(frozen=True, kw_only=True)
class Limits:
    max_queued: int = 256
    max_queued_tokens: int = 262_144
    max_wait_s: float = 60.0
    max_seqs: int = 64
    kv_budget_bytes: int | None = None
    step_ms: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Job:
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    n: int = 1
    key: str = ""
    priority: int = 0
    deadline_s: float | None = None


class Overloaded(QwellError):  # noqa: N818
    """The request is refused for now: `reason` is 'queue', 'tokens', 'wait' or 'draining'."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        self.reason, self.retry_after_s = reason, retry_after_s
        what = "is shutting down" if reason == "draining" else f"is full ({reason})"
        super().__init__(f"the server {what}: try again in {math.ceil(retry_after_s)} s")


@dataclass(frozen=True)
class Started:
    choice: int
    cached_tokens: int
    queued_s: float


@dataclass(frozen=True)
class Token:
    choice: int
    piece: Piece


@dataclass(frozen=True)
class Finished:
    choice: int
    completion: Completion


@dataclass(frozen=True)
class Failed:
    choice: int
    error: Exception


Event = Started | Token | Finished | Failed
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Histogram:
    """counts[i] values are at most bounds[i] and above the bound before; the last count is of
    those above all bounds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    running: int
    queued: int
    queued_tokens: int
    pages_used: int
    pages_total: int
    cache_hit_tokens: int
    cache_miss_tokens: int
    refusals: dict[str, int]
    steps: int
    step_seconds: Histogram
    ttft_seconds: Histogram
    gap_seconds: Histogram
    tokens_in: int
    tokens_out: int
    estimated_wait_s: float


@dataclass
class _Tally:
    bounds: tuple[float, ...] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
    counts: list[int] = field(default_factory=lambda: [0] * 12)
    total: float = 0.0

    def add(self, value: float) -> None:
        self.counts[sum(value > bound for bound in self.bounds)] += 1
        self.total += value

    def frozen(self) -> Histogram:
        return Histogram(self.bounds, tuple(self.counts), self.total)


class Ticket:
    """A handle on a submitted job."""

    def __init__(self, id: int, cancel: Callable[[], None]) -> None:
        self.id, self._cancel = id, cancel

    def cancel(self) -> None:
        self._cancel()


@dataclass(eq=False)
class _Stream:
    job: Job
    choice: int
    on_event: OnEvent
    submitted: float
    reply: Reply | None = None
    started: bool = False
    last: float = 0.0
    is_cancelled: bool = False


class Service:
    """Starts the thread that owns the engine of `llm`."""

    def __init__(self, llm: LLM, limits: Limits | None = None) -> None:
        self._llm, self.limits = llm, limits or Limits()
        self._inbox: queue.SimpleQueue[_Stream | None] = queue.SimpleQueue()
        self._streams: list[_Stream] = []
        self._queued: set[_Stream] = set()
        self._ids, self._lock = count(1), threading.Lock()
        self._draining = self._stop = False
        self._refusals: dict[str, int] = {}
        self._steps = self._tokens_in = self._tokens_out = 0
        self._step, self._ttft, self._gap = _Tally(), _Tally(), _Tally()
        self._thread = threading.Thread(target=self._run, name="qwell-engine", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive()

    def submit(self, job: Job, on_event: OnEvent) -> Ticket:
        self._llm.engine.check(Request(prompt_ids=job.prompt_ids, params=job.params))
        streams = [_Stream(job, choice, on_event, monotonic()) for choice in range(job.n)]
        with self._lock:
            self._refuse_if_full(job)
            self._queued |= set(streams)
        for stream in streams:
            self._inbox.put(stream)

        def cancel() -> None:
            for stream in streams:
                stream.is_cancelled = True

        return Ticket(next(self._ids), cancel)

    def _refuse_if_full(self, job: Job) -> None:
        tokens = sum(len(stream.job.prompt_ids) for stream in self._queued)
        reason = "draining" if self._draining else ""
        reason = reason or ("queue" if len(self._queued) + job.n > self.limits.max_queued else "")
        if not reason and tokens + len(job.prompt_ids) > self.limits.max_queued_tokens:
            reason = "tokens"
        if reason:
            self._refusals[reason] = self._refusals.get(reason, 0) + 1
            raise Overloaded(reason, 1.0)

    def snapshot(self) -> Snapshot:
        pool, queued = self._llm.engine.pool, list(self._queued)
        return Snapshot(
            running=len(self._streams),
            queued=len(queued),
            queued_tokens=sum(len(stream.job.prompt_ids) for stream in queued),
            pages_used=pool.num_pages - pool.num_free,
            pages_total=pool.num_pages,
            cache_hit_tokens=0,
            cache_miss_tokens=self._tokens_in,
            refusals=dict(self._refusals),
            steps=self._steps,
            step_seconds=self._step.frozen(),
            ttft_seconds=self._ttft.frozen(),
            gap_seconds=self._gap.frozen(),
            tokens_in=self._tokens_in,
            tokens_out=self._tokens_out,
            estimated_wait_s=0.0,
        )

    def drain(self) -> None:
        self._draining = True

    def close(self, grace_s: float = 0.0) -> None:
        self.drain()
        end = monotonic() + grace_s
        while (self._streams or self._queued) and monotonic() < end and self.healthy:
            threading.Event().wait(0.01)
        self._stop = True
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._stop:
            self._receive()
            begin = monotonic()
            self._sweep()
            if self._llm.engine.has_work:
                try:
                    self._llm.engine.step()
                except Exception as error:
                    self._fail_all(error)
                self._steps += 1
                self._step.add(monotonic() - begin)
            for stream in list(self._streams):
                self._tell(stream)
        for stream in [*self._streams, *self._queued]:
            self._end(stream, "cancelled")

    def _receive(self) -> None:
        while True:
            try:
                stream = self._inbox.get(block=not self._streams, timeout=None)
            except queue.Empty:
                return
            if stream is None:
                return
            self._queued.discard(stream)
            self._start(stream)
            if self._inbox.empty():
                return

    def _start(self, stream: _Stream) -> None:
        job = stream.job
        self._streams.append(stream)
        try:
            request = Request(prompt_ids=job.prompt_ids, params=job.params, choice=stream.choice)
            stream.reply = self._llm.engine.submit(request)
            self._tokens_in += len(job.prompt_ids)
        except Exception as error:
            self._streams.remove(stream)
            stream.on_event(Failed(stream.choice, error))

    def _sweep(self) -> None:
        now = monotonic()
        for stream in list(self._streams):
            deadline = stream.job.deadline_s
            if stream.is_cancelled:
                self._end(stream, "cancelled")
            elif deadline is not None and now - stream.submitted > deadline:
                self._end(stream, "deadline")

    def _end(self, stream: _Stream, reason: str) -> None:
        reply = stream.reply
        if stream in self._streams:
            self._streams.remove(stream)
        if reply is None:
            stream.on_event(Failed(stream.choice, QwellError(f"the request was {reason}")))
            return
        self._llm.engine.cancel(reply)
        if not reply.is_finished:
            reply._finish(reason)
        stream.on_event(Finished(stream.choice, reply.result()))

    def _fail_all(self, error: Exception) -> None:
        for stream in self._streams:
            assert stream.reply
            self._llm.engine.cancel(stream.reply)
            stream.on_event(Failed(stream.choice, error))
        self._streams.clear()

    def _tell(self, stream: _Stream) -> None:
        reply, now = stream.reply, monotonic()
        assert reply
        if not stream.started and (reply.computed or reply.is_finished):
            stream.started = True
            stream.on_event(Started(stream.choice, 0, now - stream.submitted))
        try:
            piece = reply.take()
        except Exception as error:
            self._streams.remove(stream)
            stream.on_event(Failed(stream.choice, error))
            return
        if piece is None:
            return
        self._tokens_out += len(piece.token_ids)
        (self._gap if stream.last else self._ttft).add(now - (stream.last or stream.submitted))
        stream.last = now
        stream.on_event(Token(stream.choice, piece))
        if piece.completion:
            self._streams.remove(stream)
            wanted = stream.job.params.prompt_logprobs
            found = self._prompt_logprobs(stream.job) if wanted is not None else None
            completion = replace(piece.completion, prompt_logprobs=found)
            stream.on_event(Finished(stream.choice, completion))

    def _prompt_logprobs(self, job: Job) -> tuple[TokenLogprob | None, ...]:
        ids, top = job.prompt_ids, job.params.prompt_logprobs or 0
        found: list[TokenLogprob | None] = [None]
        for rows in self._llm.engine.logits(ids):
            for row in rows[: len(ids) - len(found)]:
                best = largest(row[: self._llm.engine.vocab_size], top)
                chosen = ids[len(found)]
                values = log_softmax_at(row, [*best, chosen]).tolist()
                tops = tuple(self._named(i, v) for i, v in zip(best, values[:-1], strict=True))
                found.append(self._named(chosen, values[-1], tops))
        return tuple(found)

    def _named(
        self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        data = self._llm.tokenizer.token_bytes(token)
        text = data.decode("utf-8", "replace")
        return TokenLogprob(token_id=token, token=text, bytes=data, logprob=logprob, top=top)
