"""A loaded model as Python sees it: generate, chat, stream, logprobs.

Thin: text becomes ids, ids become a `Request`, the engine does the rest. One thread at a time may
use an LLM; streams of one LLM may be read in turns, and every read moves all of them on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import index
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from qwell.config import GenerationConfig, ModelConfig
from qwell.engine.engine import Engine
from qwell.engine.reply import Reply
from qwell.engine.sampler import log_softmax_at
from qwell.engine.types import (
    F32,
    Backend,
    Completion,
    Piece,
    Request,
    SamplingParams,
    check_names,
)
from qwell.errors import TextError, UsageError

if TYPE_CHECKING:
    from qwell.text.template import ChatTemplate
    from qwell.text.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]


class LLM:
    """A model ready to answer. Made by `qwell.load`.

    Sampling is that of the model's makers unless `params` or single overrides say otherwise; a
    `params` object is taken whole. Every method raises UsageError for impossible arguments and
    ContextLengthError for a prompt longer than max_context.
    """

    def __init__(
        self,
        *,
        name: str,
        backend: Backend,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        generation: GenerationConfig,
        max_context: int,
        load_ms: float | None = None,
        adapter_id: str = "",
        num_pages: int | None = None,
        max_seqs: int = 8,
        max_rows: int = 256,
    ) -> None:
        self.name, self.tokenizer, self.template = name, tokenizer, template
        self.adapter_id = adapter_id
        """Names the content of the adapter the model runs with; '' without one."""
        self.backend, self.generation, self.max_context = backend, generation, max_context
        self.engine = Engine(
            backend,
            tokenizer,
            eos_ids={*generation.eos_token_ids, *tokenizer.eos_ids},
            max_context=max_context,
            num_pages=num_pages,
            max_seqs=max_seqs,
            max_rows=max_rows,
            prefix_cache=True,
            adapter_id=adapter_id,
            load_ms=load_ms,
        )

    def __repr__(self) -> str:
        return f"<LLM {self.name}, context {self.max_context:,} tokens>"

    @property
    def config(self) -> ModelConfig:
        return self.backend.config

    @overload
    def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        allow_special: bool = False,
        **overrides: Any,
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        params: SamplingParams | None = None,
        *,
        allow_special: bool = False,
        **overrides: Any,
    ) -> list[Completion]: ...
    def generate(
        self,
        prompt: str | Sequence[int] | list[str] | list[list[int]],
        params: SamplingParams | None = None,
        *,
        allow_special: bool = False,
        **overrides: Any,
    ) -> Completion | list[Completion]:
        """Continues a raw text or token ids, without a template; a list gives a list, in order.

        Control tokens written in a text stay text unless allow_special.
        """
        many = not isinstance(prompt, str) and len(prompt) > 0 and not _is_id(prompt[0])
        prompts: Sequence[Any] = prompt if many else [prompt]
        asked = self._params(params, overrides)
        found = self._run(
            [Request(prompt_ids=self._raw_ids(one, allow_special), params=asked) for one in prompts]
        )
        return found if many else found[0]

    def chat(
        self,
        messages: str | Messages,
        params: SamplingParams | None = None,
        *,
        tools: Tools | None = None,
        **overrides: Any,
    ) -> Completion:
        """The assistant's next message; a string is one user turn."""
        asked = self._params(params, overrides)
        ids = self._chat_ids(messages, tools)
        return self._run([Request(prompt_ids=ids, params=asked)])[0]

    def stream(
        self,
        prompt_or_messages: str | Sequence[int] | Messages,
        params: SamplingParams | None = None,
        *,
        tools: Tools | None = None,
        raw: bool = False,
        allow_special: bool = False,
        on_prefill: Callable[[int, int], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
        **overrides: Any,
    ) -> Iterator[Piece]:
        """The reply as it comes; the last piece carries the completion.

        A string is one user turn, or with `raw` the text to continue; ids are continued as they
        are. on_prefill(done, total) is called after every chunk of the prompt. is_cancelled is
        asked before every step; when it says so the reply ends there, with finish_reason
        'cancelled' and the usage so far. Arguments are checked by this call, computing begins with
        the first piece asked for; closing the iterator cancels the request and frees its memory.
        """
        given, asked = prompt_or_messages, self._params(params, overrides)
        if raw or (not isinstance(given, str) and len(given) > 0 and _is_id(given[0])):
            if tools is not None:
                raise UsageError("tools need a chat; they cannot go with a raw prompt")
            ids = self._raw_ids(given, allow_special)
        elif allow_special:
            raise UsageError("allow_special is for raw prompts")
        else:
            ids = self._chat_ids(given, tools)  # type: ignore[arg-type]
        request = Request(prompt_ids=ids, params=asked)
        self.engine.check(request)
        return self._pieces(request, on_prefill, is_cancelled)

    def logprobs(self, ids: Sequence[int]) -> F32:
        """float32 [len(ids)]: log p(ids[i] | ids[:i]) in nats; the first is nan.

        Under the model's raw distribution, as in TokenLogprob.
        """
        ids = _whole(ids)
        found = np.full(len(ids), np.nan, np.float32)
        at = 1
        self.engine.check_ids(ids)
        for rows in self.logits(ids[:-1]) if len(ids) > 1 else ():
            for row in rows:
                found[at] = log_softmax_at(row, [ids[at]])[0]
                at += 1
        return found

    def logits(self, ids: Sequence[int], *, chunk: int = 64) -> Iterator[F32]:
        """Logits after every one of `ids`, as arrays [n <= chunk, vocab_size] float32, in order."""
        return self.engine.logits(_whole(ids), chunk=chunk)

    def _params(self, params: SamplingParams | None, overrides: dict[str, Any]) -> SamplingParams:
        if params is None:
            return SamplingParams.defaults(self.generation, **overrides)
        return replace(params, **check_names(overrides))

    def _raw_ids(self, prompt: Any, allow_special: bool) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return tuple(self.tokenizer.encode(prompt, allow_special=allow_special))
        return _whole(prompt)

    def _chat_ids(self, messages: str | Messages, tools: Tools | None) -> tuple[int, ...]:
        from qwell.text.chat import encode_chat

        if self.template is None:
            raise TextError(
                f"{self.name} has no chat template: use generate (--raw), or load one "
                "with --chat-template"
            )
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return tuple(encode_chat(self.tokenizer, self.template, messages, tools=tools))

    def _run(self, requests: Sequence[Request]) -> list[Completion]:
        replies: list[Reply] = []
        try:
            replies += map(self.engine.submit, requests)
            while not all(reply.is_finished for reply in replies):
                self.engine.step()
        finally:
            for reply in replies:
                self.engine.cancel(reply)
        return [reply.result() for reply in replies]

    def _pieces(
        self,
        request: Request,
        on_prefill: Callable[[int, int], None] | None,
        is_cancelled: Callable[[], bool] | None,
    ) -> Iterator[Piece]:
        reply = self.engine.submit(request)
        read = 0
        try:
            while True:
                if on_prefill and read < min(reply.computed, reply.num_prompt):
                    read = min(reply.computed, reply.num_prompt)
                    on_prefill(read, reply.num_prompt)
                if piece := reply.take():
                    yield piece
                    if piece.completion:
                        return
                elif is_cancelled and is_cancelled():
                    reply.end("cancelled")
                else:
                    self.engine.step()
        finally:
            self.engine.cancel(reply)


def _whole(ids: Any) -> tuple[int, ...]:
    try:
        return tuple(index(token) for token in ids)
    except TypeError as error:
        raise UsageError("a raw prompt is a text or a sequence of token ids") from error


def _is_id(value: object) -> bool:
    return isinstance(value, int | np.integer)
