"""The requests of an engine: who waits, who runs and with which pages, who computes next.

`plan` is asked before every step. It lets in whom there is room for and says how many tokens of
each are computed, by the rules of `policy.py`. When pages run out, the youngest request gives
its own back and waits again. The scheduler computes nothing, and has no lock: its engine does.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from time import perf_counter

from qwell.engine.plan import Part
from qwell.engine.policy import Pace, Prompt, divide, entry_order
from qwell.engine.prefix_cache import Lease, PrefixCache
from qwell.engine.reply import Reply
from qwell.errors import QwellError
from qwell.model.batch import PAGE_SIZE

_PAGES_HELD = "the KV cache is held by logits() that were not read to the end: read or close them"


class Scheduler:
    """At most max_seqs replies that run, the others wait; their pages are of `cache`.

    adapter_id is part of the key under which pages are shared.
    """

    def __init__(self, cache: PrefixCache, *, max_seqs: int, adapter_id: str = "") -> None:
        self._cache, self._max_seqs, self._adapter_id = cache, max_seqs, adapter_id
        self._arrivals = count()
        self._waiting: list[Reply] = []
        self._running: list[Reply] = []  # oldest first

    @property
    def running(self) -> tuple[Reply, ...]:
        """Those that hold pages, oldest first."""
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[Reply, ...]:
        return tuple(self._waiting)

    def add(self, reply: Reply) -> None:
        """Queues a reply behind all that came before."""
        reply.arrival = next(self._arrivals)
        self._waiting.append(reply)

    def remove(self, reply: Reply) -> None:
        """Forgets a reply and frees its pages. Nothing happens if it is not here."""
        if reply in self._waiting:
            self._waiting.remove(reply)
        if reply in self._running:
            self._running.remove(reply)
        self._drop(reply)

    def make_room(self, lease: Lease, tokens: int) -> None:
        """Pages for so many tokens of a sequence that is no request; requests give way to it.

        Raises QwellError if other such sequences hold them.
        """
        while not self._cache.grow(lease, tokens):
            if not self._running:
                raise QwellError(_PAGES_HELD)
            self._preempt(self._running[-1])

    def plan(self, pace: Pace, max_rows: int) -> list[Part]:
        """Who computes how many of its tokens in this step, at most max_rows: single rows, chunks.

        Empty if there are no requests. Raises QwellError if some wait, but none can have pages.
        """
        self._let_in()
        self._grow()
        singles, reading, prompts = list[Part](), list[Reply](), list[Prompt]()
        of_key = Counter(reply.request.key for reply in self._running)
        for reply in self._running:
            self._borrow(reply)
            left = len(reply.tokens) - reply.computed
            if left == 1:
                singles.append(Part(reply, 1, reply.computed))
            else:
                reading.append(reply)
                prompts.append(self._prompt(reply, left, of_key[reply.request.key]))
        rows = divide(prompts, pace.rows(max_rows - len(singles)))
        chunks = [Part(r, n, r.computed) for r, n in zip(reading, rows, strict=True) if n]
        if self._waiting and not singles and not chunks:
            raise QwellError(_PAGES_HELD)
        return singles + chunks

    def _let_in(self) -> None:
        """Waiting requests, while there are pages for all their tokens. One for whom there are
        none holds up those behind it, or it might wait for ever."""
        while self._waiting and len(self._running) < self._max_seqs:
            now, of_key = perf_counter(), Counter(r.request.key for r in self._running)
            reply = min(
                self._waiting,
                key=lambda r: entry_order(
                    priority=r.request.priority,
                    waited_s=now - r.submitted,
                    running_of_key=of_key[r.request.key],
                    arrival=r.arrival,
                ),
            )
            lease = self._lease(reply)
            if not self._cache.grow(lease, len(reply.tokens)):
                self._cache.end(lease)
                return
            reply.lease, reply.computed = lease, len(lease.path) * PAGE_SIZE
            reply.mark_cached(reply.computed)
            self._waiting.remove(reply)
            self._running.append(reply)

    def _lease(self, reply: Reply) -> Lease:
        """Of one whose prompt's logits are wanted all rows are computed: nothing is lent."""
        key = f"{self._adapter_id}/{reply.request.key}" if self._adapter_id else reply.request.key
        if reply.params.prompt_logprobs is not None:
            return Lease(key)
        return self._cache.begin(key, reply.tokens, reply.num_prompt)

    def _grow(self) -> None:
        """Pages for all tokens of those that run. The oldest comes first: it is never sent away
        for others."""
        for reply in list(self._running):
            while reply.lease and not self._cache.grow(reply.lease, len(reply.tokens)):
                self._preempt(self._running[-1])

    def _borrow(self, reply: Reply) -> None:
        """Takes pages that others have computed since it was let in."""
        if reply.lease and not reply.wants_prompt_logits:
            reply.computed = self._cache.extend(
                reply.lease, reply.tokens, reply.num_prompt, reply.computed
            )

    def _prompt(self, reply: Reply, left: int, running_of_key: int) -> Prompt:
        scored = reply.wants_prompt_logits
        page = None
        if reply.lease and not scored:
            page = self._cache.next_page(reply.lease, reply.tokens, reply.num_prompt)
        return Prompt(
            left=left,
            priority=reply.request.priority,
            running_of_key=running_of_key,
            page=page,
            is_scored=scored,
        )

    def _preempt(self, reply: Reply) -> None:
        """Sends a running request back to its place in the queue, to be computed again."""
        self._running.remove(reply)
        self._drop(reply)
        reply.computed = 0
        self._waiting.append(reply)

    def _drop(self, reply: Reply) -> None:
        """Its pages are no longer its own."""
        if reply.lease:
            self._cache.end(reply.lease)
        reply.lease = None
