"""Many requests over one back end: each is checked, computed in steps with the others, and ends.

Synchronous: `submit` gives a `Reply`, every `step` moves all of them on, the caller reads them
with `Reply.take`; threads that share an engine take turns. Which rows go into a step, and who gets
pages, is the business of `scheduler.py`. A request that gave its pages back is computed again
later; a row keeps its role (prompt or reply), so its numbers and its tokens stay the same.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from qwell.engine.grammar import GrammarCompiler
from qwell.engine.kv_cache import PagePool, pages_for
from qwell.engine.memory import kv_bytes
from qwell.engine.plan import Part, Shape, batch_of, shape_of
from qwell.engine.policy import Pace
from qwell.engine.prefix_cache import Lease, PrefixCache
from qwell.engine.reply import Reply
from qwell.engine.sampler import Mask, sample
from qwell.engine.scheduler import Scheduler
from qwell.engine.types import F32, Backend, Request
from qwell.errors import ContextLengthError, MemoryBudgetError, QwellError, UsageError
from qwell.model.batch import PAGE_SIZE, Batch

if TYPE_CHECKING:
    from qwell.text.tokenizer import Tokenizer


class Engine:
    """Runs requests on `backend`.

    max_context: tokens of one request, prompt and reply. num_pages: of the KV cache, by default
    one full context; fewer are not enough. At most max_seqs requests are in a step and max_rows
    rows; the others wait in order of arrival. prefix_cache: pages of ended requests are kept while
    there is room, for those that begin with the same tokens and have the same `Request.key`;
    adapter_id is part of that key.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        *,
        eos_ids: Iterable[int],
        max_context: int,
        num_pages: int | None = None,
        max_seqs: int = 8,
        max_rows: int = 256,
        prefix_cache: bool = False,
        adapter_id: str = "",
        load_ms: float | None = None,
    ) -> None:
        num_pages = pages_for(max_context) if num_pages is None else num_pages
        max_rows = min(max_rows, backend.max_rows)
        if num_pages < pages_for(max_context) or not 0 < max_seqs < max_rows:
            raise ValueError("an engine needs the pages of one context and more rows than requests")
        self.backend, self.tokenizer = backend, tokenizer
        self.eos_ids, self.load_ms = tuple(eos_ids), load_ms
        self.max_context, self.max_seqs, self.max_rows = max_context, max_seqs, max_rows
        self.vocab_size = min(backend.config.vocab_size, tokenizer.vocab_size)
        self.grammars = GrammarCompiler(tokenizer, vocab_size=self.vocab_size, eos_ids=self.eos_ids)
        self.cache = PrefixCache(
            PagePool(num_pages),
            roles_differ=backend.roles_differ,
            enabled=prefix_cache,
        )
        self._scheduler = Scheduler(self.cache, max_seqs=max_seqs, adapter_id=adapter_id)
        self._kv = backend.new_kv(num_pages)
        # Logits of a step, used again and again: arrays of their own stay in malloc's arenas.
        self._out_logits = np.empty((max_seqs, backend.config.vocab_size), np.float32)
        self.is_committed = False
        """Whether keys and values have their memory already."""
        self.pace = Pace()
        self.last_shape = Shape()
        """Of the last step; of no request if it computed nothing."""
        self._lock = threading.RLock()  # threads that share an LLM take turns

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def running(self) -> tuple[Reply, ...]:
        """Those that hold pages, oldest first."""
        return self._scheduler.running

    @property
    def waiting(self) -> tuple[Reply, ...]:
        return self._scheduler.waiting

    def commit(self) -> None:
        """Takes the memory of all keys and values from the system now, not as pages are first used,
        where the back end can. Raises MemoryBudgetError."""
        try:
            getattr(self._kv, "commit", lambda: None)()
        except MemoryError as error:
            raise MemoryBudgetError(
                "the memory for keys and values cannot be had: ask for less"
            ) from error
        self.is_committed = True

    @property
    def cache_bytes(self) -> int:
        """Of keys and values, when all pages are used."""
        tokens = self.cache.pool.num_pages * PAGE_SIZE
        return kv_bytes(self.backend.config, tokens, self.backend.kv_dtype)

    def submit(self, request: Request) -> Reply:
        """Prepares a request and queues it."""
        reply = self.prepare(request)
        self.enqueue(reply)
        return reply

    def prepare(self, request: Request) -> Reply:
        """A reply that is not queued yet; takes no lock, so a step may be under way.

        Raises ContextLengthError for a prompt longer than the context (one that fills it ends at
        once, with 'length'), UsageError for ids the model does not have or a grammar that cannot
        be enforced. A grammar is compiled here, not in a step.
        """
        self.check(request)
        seed, grammar = request.params.seed, request.params.grammar
        return Reply(
            request,
            self.tokenizer,
            seed=secrets.randbits(63) if seed is None else seed,
            vocab_size=self.vocab_size,
            eos_ids=self.eos_ids,
            max_context=self.max_context,
            grammar=self.grammars.compile(grammar) if grammar else None,
            load_ms=self.load_ms,
        )

    def enqueue(self, reply: Reply) -> None:
        """Queues what `prepare` gave."""
        if not reply.is_finished:
            with self._lock:
                self._scheduler.add(reply)

    def check(self, request: Request) -> None:
        """Raises what `submit` would raise."""
        self.check_ids(request.prompt_ids)
        for token in (*request.params.logit_bias, *request.params.stop_token_ids):
            if token >= self.vocab_size:
                raise UsageError(
                    f"logit_bias or stop_token_ids names the id {token}, but the model has "
                    f"ids 0 to {self.vocab_size - 1}"
                )
        if request.params.grammar:
            self.grammars.compile(request.params.grammar)

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raises UsageError if there are none or one is unknown, ContextLengthError if too many."""
        rows = self.backend.config.vocab_size
        if len(ids) == 0:
            raise UsageError("the prompt is empty; give at least one token")
        if len(ids) > self.max_context:
            raise ContextLengthError(len(ids), self.max_context)
        if min(ids) < 0 or max(ids) >= rows:
            wrong = next(token for token in ids if not 0 <= token < rows)
            raise UsageError(f"the prompt has the id {wrong}; the model has 0 to {rows - 1}")

    def cancel(self, reply: Reply) -> None:
        """Forgets a request and frees its pages at once. Nothing happens if it has ended."""
        with self._lock:
            self._scheduler.remove(reply)

    def step(self) -> None:
        """Computes one batch and lets every reply whose logits came out choose its token.

        A fault of one request (its logits are not finite, say) ends that request alone: its
        `take` raises it. A fault of the step itself is raised here and changes no request.
        """
        with self._lock:
            begin = perf_counter()
            self.last_shape = Shape()
            parts = self._scheduler.plan(self.pace, self.max_rows)
            if parts:
                self.last_shape = shape_of(parts)
                self._compute(parts)
                self.pace.learn(self.last_shape.prompt_rows, perf_counter() - begin)

    def step_bytes(self, shape: Shape) -> int | None:
        """Weights, keys and values that a step of replies alone reads; None if the back end does
        not say."""
        weights = self.backend.read_bytes
        if not weights or not shape.replies:
            return None
        return weights + kv_bytes(self.backend.config, shape.context, self.backend.kv_dtype)

    def _compute(self, parts: list[Part]) -> None:
        for part in parts:
            part.reply.mark_started()
        logits = self.backend.step(batch_of(parts, self._kv, self._out_logits))
        ends = list(accumulate(part.num_logits for part in parts))
        for part, end in zip(parts, ends, strict=True):
            if part.reply.wants_prompt_logits:
                _score(part.reply, logits[end - part.rows : end])
        chosen = iter(self._choose(parts, logits, ends))
        for part in parts:
            reply = part.reply
            if reply.lease:  # before the reply may end and let go of its pages
                self.cache.computed(reply.lease, reply.tokens, reply.num_prompt, part.done)
            if part.is_last:
                self._advance(reply, *next(chosen))
            elif reply.is_finished:  # by a fault of its prompt
                self.cancel(reply)
            reply.computed = part.done  # last: an interrupt before it computes these rows again

    def _choose(
        self, parts: list[Part], logits: F32, ends: list[int]
    ) -> Iterable[tuple[int | QwellError, F32]]:
        """Token and logits of every part that ends with its newest token."""
        ready = [(p.reply, end - 1) for p, end in zip(parts, ends, strict=True) if p.is_last]
        rows = logits if len(ready) == len(logits) else logits[[row for _, row in ready]]
        samplers, masks = [r.sampler for r, _ in ready], [_mask(r) for r, _ in ready]
        return zip(sample(samplers, rows, masks, self.backend.num_threads), rows, strict=True)

    def logits(self, ids: Sequence[int], *, chunk: int = 64) -> Iterator[F32]:
        """Logits after every one of `ids`, read as a prompt: arrays [n <= chunk, V], in order.

        Errors as in `submit`, and UsageError for a chunk below 1; one above max_rows counts as it.
        """
        if chunk < 1:
            raise UsageError(f"chunk is {chunk}; it must be at least 1")
        self.check_ids(ids)
        return self._logits(ids, min(chunk, self.max_rows))

    def _logits(self, ids: Sequence[int], chunk: int) -> Iterator[F32]:
        lease = Lease("")
        with self._lock:
            self._scheduler.make_room(lease, len(ids))
        try:
            for at in range(0, len(ids), chunk):
                batch = Batch.make(
                    [ids[at : at + chunk]],
                    past=[at],
                    prompt_len=[len(ids)],
                    logits="all",
                    kv=self._kv,
                    pages=[lease.pages],
                )
                yield self.backend.step(batch)
        finally:
            with self._lock:
                self.cache.end(lease)

    def _advance(self, reply: Reply, token: int | QwellError, logits: F32) -> None:
        try:
            if reply.error is None:
                reply.accept(token, logits)
        except Exception as error:  # whatever it is, the others go on
            reply.error = error
        if reply.is_finished:
            self.cancel(reply)


def _score(reply: Reply, logits: F32) -> None:
    """Scores a prompt; logits that are not finite end their own request alone."""
    try:
        reply.score_prompt(logits)
    except QwellError as error:
        reply.error = error


def _mask(reply: Reply) -> Mask | None:
    """The mask of a reply; a grammar that fails ends its own request alone."""
    try:
        return reply.mask()
    except Exception as error:
        reply.error = error
        return None
