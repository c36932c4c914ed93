"""One request on its way: its tokens, its text, and the rule that ends it.

A reply knows nothing of the requests beside it. The engine moves `computed` and `lease`, and
hands it a row of logits whenever the whole of `tokens` has been computed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from qwell.engine.loops import ends_in_loop
from qwell.engine.sampler import Mask, largest, log_softmax_at, new_sampler, not_finite
from qwell.engine.stops import StopStrings
from qwell.engine.types import F32, Completion, Piece, Request, Timings, TokenLogprob, Usage
from qwell.errors import QwellError
from qwell.text.detokenize import Detokenizer

if TYPE_CHECKING:
    from qwell.engine.grammar import Grammar
    from qwell.engine.prefix_cache import Lease
    from qwell.text.tokenizer import Tokenizer


class Reply:
    """The state of one request, and the handle by which its caller reads the reply."""

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer,
        *,
        seed: int,
        vocab_size: int,
        eos_ids: Iterable[int],
        max_context: int,
        grammar: Grammar | None = None,
        load_ms: float | None = None,
    ) -> None:
        params = request.params
        self.request, self.params, self.seed = request, params, seed
        self.tokens, self.num_prompt = list(request.prompt_ids), len(request.prompt_ids)
        self.computed = 0
        """How many of the tokens have their keys and values in the cache."""
        self.arrival = 0
        """Its place among all requests of an engine."""
        self.lease: Lease | None = None
        self.completion: Completion | None = None
        self.error: Exception | None = None
        self.max_context, self.vocab_size = max_context, vocab_size
        self._tokenizer, self._load_ms, self._grammar = tokenizer, load_ms, grammar
        self._forced = grammar.forced() if grammar else []
        """The next tokens, where the grammar leaves no choice."""
        self._stop_ids = {*params.stop_token_ids, *(() if params.ignore_eos else eos_ids)}
        self.sampler = new_sampler(
            params,
            request.prompt_ids,
            vocab_size=vocab_size,
            seed=seed,
            stop_ids=self._stop_ids,
            choice=request.choice,
        )
        self._detokenizer = Detokenizer(tokenizer, skip_special=True)
        self._stops = StopStrings(params.stop)
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._prompt_logprobs: list[TokenLogprob | None] = [None]
        self._taken_text, self._taken_tokens, self._taken_last = 0, 0, False
        self._lock = threading.Lock()  # one thread may take what another one computes
        self.submitted = perf_counter()
        self.num_cached = 0
        """Prompt tokens that were in the cache when it was first let in."""
        self.started: float | None = None
        """When the first step with a row of it began."""
        self._token_times: list[float] = []
        if self.num_prompt == max_context:
            self._finish("length")

    @property
    def is_finished(self) -> bool:
        return self.completion is not None or self.error is not None

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    def take(self) -> Piece | None:
        """What is new since the last call; None if nothing can be shown yet, or all has been.

        Raises what ended the request, if a fault did.
        """
        if self.error is not None:
            raise self.error
        with self._lock:
            text = "".join(self._text[self._taken_text :])
            if self._taken_last or not (text or self.completion):
                return None
            first = self._taken_tokens
            self._taken_text, self._taken_tokens = len(self._text), self.num_output
            self._taken_last = self.completion is not None
            return Piece(
                text=text,
                token_ids=tuple(self.tokens[self.num_prompt + first :]),
                logprobs=None if self.params.logprobs is None else tuple(self._logprobs[first:]),
                completion=self.completion,
            )

    def result(self) -> Completion:
        """The completion of a finished reply; raises what ended it, if a fault did."""
        if self.error is not None:
            raise self.error
        if self.completion is None:
            raise RuntimeError("the reply has not ended")
        return self.completion

    @property
    def wants_prompt_logits(self) -> bool:
        """Whether the logits of the rows computed next are wanted though none is its last."""
        return self.params.prompt_logprobs is not None and self.computed < self.num_prompt

    def end(self, reason: str) -> Completion:
        """Ends a reply that has not ended; gives its completion. Raises the fault that did."""
        with self._lock:
            if not self.is_finished:
                self._finish(reason)
        return self.result()

    def mark_cached(self, tokens: int) -> None:
        """So many tokens need not be computed; what counts is the first time."""
        if self.started is None:
            self.num_cached = tokens

    def mark_started(self) -> None:
        """The first step with a row of this reply begins now; later calls change nothing."""
        self.started = self.started or perf_counter()

    def mask(self) -> Mask | None:
        """The tokens that the grammar allows next, None for all of them."""
        if self._grammar is None:
            return None
        return _only(self._forced[0], self.vocab_size) if self._forced else self._grammar.mask()

    def accept(self, token: int | QwellError, logits: F32) -> None:
        """Takes the token chosen from logits [V], extends the text, ends the reply if due.

        Tokens that must follow are taken at once, without a step of the model; their rows are
        computed in the next one, as reply rows like all behind the prompt. Where log-probabilities
        are asked for each gets its own step, so that these come from real logits; the tokens are
        the same. Raises the error that came in place of a token.
        """
        if isinstance(token, QwellError):
            raise token
        with self._lock:
            if self.params.logprobs is not None:
                self._logprobs.append(self._logprob(logits, token, self.params.logprobs))
            self._extend(token)
            if self._forced:
                self._forced.pop(0)  # the mask let nothing else through
            elif self._grammar and not self.is_finished:
                self._forced = self._grammar.forced()
            while self._forced and self.params.logprobs is None and not self.is_finished:
                self._extend(self._forced.pop(0))

    def score_prompt(self, logits: F32) -> None:
        """Takes logits [n, V] after the tokens `computed`, .. of the prompt. Raises QwellError for
        those that are not finite."""
        for at, row in enumerate(logits, self.computed + 1):
            if at == len(self._prompt_logprobs) < self.num_prompt:  # else it is known already
                if not np.isfinite(row[: self.vocab_size].max()):
                    raise not_finite(at)
                top = self.params.prompt_logprobs or 0
                self._prompt_logprobs.append(self._logprob(row, self.tokens[at], top))

    def _extend(self, token: int) -> None:
        self._token_times.append(perf_counter())
        self.tokens.append(token)
        self.sampler.push(token)
        if token in self._stop_ids:
            self._finish("stop", token if token in self.params.stop_token_ids else None)
            return
        if self._grammar:
            self._grammar.advance(token)
        stop = self._emit(self._detokenizer.push(token))
        if stop is not None:
            self._finish("stop", stop)
        elif self._grammar and self._grammar.is_done:
            self._finish("stop")
        elif self.num_output == self.params.max_tokens or len(self.tokens) == self.max_context:
            self._finish("length")

    def _emit(self, text: str) -> str | None:
        """Adds text to the reply; gives the stop string that ends it, if one does."""
        stop = None
        if self.num_output > self.params.min_tokens:
            text, stop = self._stops.push(text)
        self._text.append(text)
        return stop

    def _finish(self, reason: str, stop_reason: str | int | None = None) -> None:
        if not isinstance(stop_reason, str):  # what follows a stop string is dropped
            stop = self._emit(self._detokenizer.flush())
            if stop is None:
                self._text.append(self._stops.flush())
            else:
                reason, stop_reason = "stop", stop
        self.completion = Completion(
            text="".join(self._text),
            token_ids=tuple(self.tokens[self.num_prompt :]),
            finish_reason=reason,
            stop_reason=stop_reason,
            logprobs=None if self.params.logprobs is None else tuple(self._logprobs),
            seed=self.seed,
            usage=Usage(
                prompt_tokens=self.num_prompt,
                completion_tokens=self.num_output,
                cached_tokens=self.num_cached,
            ),
            timings=self._timings(),
            prompt_logprobs=self._scores(),
            detected_loop=ends_in_loop(self.tokens[self.num_prompt :]),
        )

    def _scores(self) -> tuple[TokenLogprob | None, ...] | None:
        return None if self.params.prompt_logprobs is None else tuple(self._prompt_logprobs)

    def _timings(self) -> Timings:
        if not self._token_times or self.started is None:
            return Timings(load_ms=self._load_ms)
        first, last = self._token_times[0], self._token_times[-1]
        more = self.num_output - 1
        return Timings(
            load_ms=self._load_ms,
            ttft_ms=1000 * (first - self.submitted),
            prefill_tok_per_s=(self.num_prompt - self.num_cached) / (first - self.started),
            decode_tok_per_s=more / (last - first) if more else None,
        )

    def _logprob(self, logits: F32, token: int, num_top: int) -> TokenLogprob:
        best = largest(logits[: self.vocab_size], num_top)
        values = log_softmax_at(logits, [*best, token]).tolist()
        top = tuple(self._named(i, value) for i, value in zip(best, values[:-1], strict=True))
        return self._named(token, values[-1], top)

    def _named(
        self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        data = self._tokenizer.token_bytes(token)
        text = data.decode("utf-8", "replace")
        return TokenLogprob(token_id=token, token=text, bytes=data, logprob=logprob, top=top)


def _only(token: int, vocab_size: int) -> Mask:
    words = np.zeros(-(-vocab_size // 32), np.uint32)
    words[token // 32] = 1 << token % 32
    return words.view(np.int32)
