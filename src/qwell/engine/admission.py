"""Which jobs a service takes: how much waits, for how long, and what is refused for that.

From any thread: whatever threads share of a service is here, behind one lock. It counts replies and
tokens and looks at the engine; how jobs run, and who is told what, it does not know.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from qwell.engine.counters import Counters
from qwell.engine.engine import Engine
from qwell.engine.jobs import Job, Limits, Overloaded


class Admission:
    """Refuses what is above `limits` with Overloaded. The counters say how long a reply takes."""

    def __init__(self, limits: Limits, engine: Engine, counters: Counters) -> None:
        self._limits, self._engine, self._counters = limits, engine, counters
        self._lock = threading.Lock()  # guards what follows
        self._queued = self._queued_tokens = self._num_compiling = 0
        self._is_draining = False
        self._refusals: Counter[str] = Counter()

    def check(self, job: Job) -> None:
        """Raises Overloaded for a job that would not be taken now."""
        with self._lock:
            self._refuse_if_full(job)

    @contextmanager
    def taking(self, job: Job) -> Iterator[None]:
        """Counts the replies of a job as queued. Raises Overloaded.

        Within, no other job is taken, and `drain` waits.
        """
        with self._lock:
            self._refuse_if_full(job)
            self._queued += job.n
            self._queued_tokens += len(job.prompt_ids)
            yield

    @contextmanager
    def compiling(self, job: Job) -> Iterator[None]:
        """While a job is prepared, which may compile its grammar. Raises Overloaded."""
        grammar = job.params.grammar
        if grammar is None or self._engine.grammars.is_known(grammar):
            yield
            return
        with self._lock:
            if self._num_compiling >= self._limits.max_compiling:
                raise self._refusal("grammars")
            self._num_compiling += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_compiling -= 1

    def dequeue(self, tokens: int) -> None:
        """A reply that was counted with so many tokens waits no longer."""
        with self._lock:
            self._queued -= 1
            self._queued_tokens -= tokens

    def drain(self) -> None:
        """Refuses every job from now on."""
        with self._lock:
            self._is_draining = True

    def frozen(self) -> tuple[int, int, dict[str, int]]:
        """Replies and prompt tokens that wait, and how often which reason refused a job."""
        with self._lock:
            return self._queued, self._queued_tokens, dict(self._refusals)

    @property
    def num_compiling(self) -> int:
        """Jobs with new grammars that are prepared now."""
        return self._num_compiling

    @property
    def estimated_wait_s(self) -> float:
        """Until a request that came now would begin: prompts before it are read, and, if all
        places are taken, as many replies end as wait. Takes no lock."""
        here, pace = self._engine.running, self._engine.pace
        running, unread = len(here), sum(max(0, r.num_prompt - r.computed) for r in here)
        reading = pace.reading_s(self._queued_tokens + unread, self._engine.max_rows)
        places = max(1, running) if self._engine.waiting else self._engine.max_seqs
        above = max(0, self._queued + running + 1 - places)
        return reading + above / places * self._counters.reply_s

    def _refuse_if_full(self, job: Job) -> None:
        """The lock is held."""
        wait, limits, reason = self.estimated_wait_s, self._limits, ""
        if self._is_draining:
            reason = "draining"
        elif self._queued + job.n > limits.max_queued:
            reason = "queue"
        elif self._queued_tokens + len(job.prompt_ids) > limits.max_queued_tokens:
            reason = "tokens"
        elif wait > limits.max_wait_s:
            reason = "wait"
        if reason:
            over = wait - limits.max_wait_s if reason == "wait" else wait
            raise self._refusal(reason, min(over, limits.max_wait_s))

    def _refusal(self, reason: str, retry_after_s: float = 1.0) -> Overloaded:
        """Counts it. The lock is held."""
        self._refusals[reason] += 1
        return Overloaded(reason, max(1.0, retry_after_s))
