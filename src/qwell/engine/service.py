"""Requests of many threads over one engine: one thread owns the program, all else is messages.

`submit` checks a job in the caller's thread, then hands it over, if `admission.py` takes it; the
service's thread steps the engine and calls `on_event` for everything that happens. It knows no
HTTP. What ends one request ends it alone: its own fault, a cancel, its deadline. A fault of a step
ends those that were in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from queue import Empty, SimpleQueue
from time import perf_counter

from qwell.engine.admission import Admission
from qwell.engine.counters import Counters, Snapshot
from qwell.engine.jobs import Event, Failed, Finished, Job, Limits, OnEvent, Started, Token
from qwell.engine.llm import LLM
from qwell.engine.memory import give_back
from qwell.engine.reply import Reply
from qwell.engine.types import Request
from qwell.errors import UsageError

IDLE_S = 5.0
"""With nothing to do for so long, freed memory goes back to the system."""


class Ticket:
    """A handle on a submitted job."""

    def __init__(self, id: int, cancel: Callable[[], None]) -> None:
        self.id, self._cancel = id, cancel

    def cancel(self) -> None:
        """Ends the job within a step, wherever it is. From any thread, any number of times."""
        self._cancel()


@dataclass(eq=False)
class _Stream:
    """One reply of a job, on its way through the service."""

    reply: Reply
    choice: int
    on_event: OnEvent
    deadline: float | None
    queued_tokens: int
    is_queued: bool = True
    seen: int = 0
    """Tokens of the reply that are counted."""
    last: float = 0.0
    """When the last of them came."""
    first_step: int = 0
    """Steps of the service before its own first one."""


@dataclass(frozen=True)
class _Cancel:
    streams: list[_Stream]


@dataclass(frozen=True)
class _Stop:
    at: float


class Service:
    """Starts the thread that owns the engine of `llm`, which nobody else may use until `close`."""

    def __init__(self, llm: LLM, limits: Limits | None = None) -> None:
        self.limits, self._engine = limits or Limits(), llm.engine
        self._pace = llm.engine.pace
        self._pace.goal_s = self.limits.step_ms / 1000
        self._inbox: SimpleQueue[list[_Stream] | _Cancel | _Stop] = SimpleQueue()
        self._streams: dict[_Stream, None] = {}  # in order of arrival; the thread's own
        self._stop_at: float | None = None
        self._is_used = False  # since memory was given back
        self._ids, self._counters = count(1), Counters()
        self._admission = Admission(self.limits, self._engine, self._counters)
        self._thread = threading.Thread(target=self._run, name="qwell-engine", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """The thread lives."""
        return self._thread.is_alive()

    def submit(self, job: Job, on_event: OnEvent) -> Ticket:
        """Queues a job; every choice ends with Finished or Failed, and nothing comes after it.

        Raises Overloaded if the queue is full, and what `Engine.prepare` raises.
        """
        if job.n < 1:
            raise UsageError(f"n is {job.n}; it must be at least 1")
        self._admission.check(job)  # before any work is put into it
        now = perf_counter()
        with self._admission.compiling(job):
            replies = [self._engine.prepare(_request(job, choice)) for choice in range(job.n)]
        streams = [
            _Stream(
                reply=reply,
                choice=choice,
                on_event=on_event,
                deadline=None if job.deadline_s is None else now + job.deadline_s,
                queued_tokens=0 if choice else len(job.prompt_ids),  # the others share its pages
            )
            for choice, reply in enumerate(replies)
        ]
        with self._admission.taking(job):
            self._inbox.put(streams)
        return Ticket(next(self._ids), lambda: self._inbox.put(_Cancel(streams)))

    def snapshot(self) -> Snapshot:
        cache, counters = self._engine.cache, self._counters
        queued, tokens, refusals = self._admission.frozen()
        return Snapshot(
            running=max(0, len(self._streams) - queued),
            queued=queued,
            queued_tokens=tokens,
            pages_used=cache.pool.num_pages - cache.num_free,
            pages_kept=cache.num_kept,
            pages_total=cache.pool.num_pages,
            cache_hit_tokens=counters.cache_hit_tokens,
            cache_miss_tokens=counters.tokens_in - counters.cache_hit_tokens,
            refusals=refusals,
            steps=counters.steps,
            step_seconds=counters.step.frozen(),
            batch_replies=counters.batch.frozen(),
            read_gb_per_s=counters.read_gb_per_s,
            ttft_seconds=counters.ttft.frozen(),
            gap_seconds=counters.gap.frozen(),
            tokens_in=counters.tokens_in,
            tokens_out=counters.tokens_out,
            estimated_wait_s=self._admission.estimated_wait_s,
            reply_step_s=self._pace.base_s,
            prompt_row_s=self._pace.row_s,
        )

    def drain(self) -> None:
        """Refuses new jobs from now on; those that are here go on."""
        self._admission.drain()

    def close(self, grace_s: float = 0.0) -> None:
        """Drains, waits so long at most, cancels what is left. The thread has ended then."""
        self.drain()
        self._inbox.put(_Stop(perf_counter() + grace_s))
        self._thread.join()
        self._pace.goal_s = None

    # What follows runs in the service's thread alone.

    def _run(self) -> None:
        try:
            while self._receive():
                self._end_overdue()
                self._step()
                for stream in list(self._streams):
                    self._tell(stream)
        finally:  # a bug of ours included: nobody waits for ever
            self._admission.drain()
            self._receive(block=False)
            self._end(list(self._streams), "cancelled")

    def _receive(self, block: bool = True) -> bool:
        """Reads the inbox, waiting for a message if there is nothing to do. False: time to end."""
        while True:
            is_idle = block and not self._streams and not self._stop_at
            try:
                message = self._inbox.get(is_idle, IDLE_S if self._is_used else None)
            except Empty:
                if not is_idle:
                    break
                self._is_used = False
                give_back()  # logits of many rows stay in malloc's arenas otherwise
                continue
            self._is_used = True
            if isinstance(message, _Stop):
                self._stop_at = min(message.at, self._stop_at or message.at)
            elif isinstance(message, _Cancel):
                self._end(message.streams, "cancelled")
            else:
                for stream in message:
                    self._streams[stream] = None
                    self._engine.enqueue(stream.reply)
        if self._stop_at is None:
            return True
        return bool(self._streams) and perf_counter() < self._stop_at

    def _end_overdue(self) -> None:
        now = perf_counter()
        late = [s for s in self._streams if s.deadline is not None and now > s.deadline]
        self._end(late, "deadline")

    def _step(self) -> None:
        if not self._engine.has_work:
            return
        begin = perf_counter()
        try:
            self._engine.step()
        except Exception as error:
            self._fault(error)
        shape = self._engine.last_shape
        read = None if shape.prompt_rows else self._engine.step_bytes(shape)
        self._counters.add_step(perf_counter() - begin, shape.replies, read)

    def _fault(self, error: Exception) -> None:
        """Ends those that were in the step; if there was none, those that could not get in."""
        hit = {*(self._engine.running or self._engine.waiting)}
        for stream in [stream for stream in self._streams if stream.reply in hit]:
            self._engine.cancel(stream.reply)
            self._leave(stream)
            _send(stream, Failed(stream.choice, error))

    def _end(self, streams: Iterable[_Stream], reason: str) -> None:
        for stream in streams:
            if stream in self._streams:
                self._engine.cancel(stream.reply)
                if not stream.reply.is_finished:
                    stream.reply.end(reason)
                self._tell(stream)

    def _tell(self, stream: _Stream) -> None:
        """Sends what is new of a stream, and lets go of it if that was the last."""
        reply, now = stream.reply, perf_counter()
        if stream.is_queued and reply.started is not None:
            self._counters.add_start(reply.num_prompt, reply.num_cached)
            stream.first_step = self._counters.steps - 1
            self._dequeue(stream)
            self._send(stream, Started(stream.choice, reply.num_cached))
        if reply.num_output > stream.seen:
            self._count_tokens(stream, now)
        try:
            piece = reply.take()
        except Exception as error:
            self._leave(stream)
            _send(stream, Failed(stream.choice, error))
            return
        if piece and (piece.text or piece.token_ids):
            self._send(stream, Token(stream.choice, piece))
        if reply.completion:
            if reply.started is not None:
                self._counters.add_reply(self._counters.steps - stream.first_step)
            self._leave(stream)
            _send(stream, Finished(stream.choice, reply.completion))

    def _count_tokens(self, stream: _Stream, now: float) -> None:
        self._counters.tokens_out += stream.reply.num_output - stream.seen
        if stream.seen:
            self._counters.gap.add(now - stream.last)
        else:
            self._counters.ttft.add(now - stream.reply.submitted)
        stream.seen, stream.last = stream.reply.num_output, now

    def _send(self, stream: _Stream, event: Event) -> None:
        """A stream nobody listens to any more ends."""
        if not _send(stream, event):
            self._engine.cancel(stream.reply)
            self._leave(stream)

    def _leave(self, stream: _Stream) -> None:
        self._dequeue(stream)
        self._streams.pop(stream, None)

    def _dequeue(self, stream: _Stream) -> None:
        if stream.is_queued:
            stream.is_queued = False
            self._admission.dequeue(stream.queued_tokens)


def _request(job: Job, choice: int) -> Request:
    return Request(
        prompt_ids=job.prompt_ids,
        params=job.params,
        choice=choice,
        key=job.key,
        priority=job.priority,
    )


def _send(stream: _Stream, event: Event) -> bool:
    try:
        stream.on_event(event)
    except Exception:  # the listener is gone, and with it whoever could be told
        return False
    return True
