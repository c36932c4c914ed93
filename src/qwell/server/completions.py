"""POST /v1/completions: raw text or token ids go on; `echo` and `suffix` included.

No chat template is used. Several prompts become several jobs of one request.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qwell.engine.jobs import Event, Finished, Job, Token
from qwell.engine.types import Completion, SamplingParams, TokenLogprob
from qwell.server.auth import Tenant
from qwell.server.errors import ApiError
from qwell.server.exchange import Exchange, Json, check_logprobs, token_text
from qwell.server.requests import MAX_CHOICES, TextRequest
from qwell.server.sampling import read_params, read_structure
from qwell.server.served import Served

FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
FIM_ENDS = (*FIM, "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|endoftext|>")


class TextExchange(Exchange):
    """A job for each prompt; their choices are texts."""

    prefix, whole_kind, chunk_kind = "cmpl", "text_completion", "text_completion"
    request: TextRequest

    def __init__(
        self, served: Served, request: TextRequest, ignored: tuple[str, ...], tenant: Tenant
    ) -> None:
        super().__init__(served, request, ignored)
        self._echoes: dict[int, str] = {}
        self._offsets: dict[int, int] = {}
        self._check()
        prompts = [self._ids(prompt) for prompt in _prompts(request.prompt)]
        if len(prompts) * request.n > MAX_CHOICES:
            raise ApiError(400, f"prompts times n is above {MAX_CHOICES}: send fewer", "prompt")
        params = self._params()
        self.jobs = [
            Job(
                prompt_ids=ids,
                params=params,
                n=request.n,
                key=tenant.name,
                priority=tenant.priority + request.qwell.priority,
                deadline_s=request.qwell.deadline_s,
            )
            for ids in prompts
        ]
        check_logprobs(self.jobs, served.llm.max_context)

    def _check(self) -> None:
        request = self.request
        if request.best_of not in (None, request.n):
            raise ApiError(
                400, "best_of must equal n: choose among the replies yourself", "best_of"
            )
        if request.suffix is not None and request.echo:
            raise ApiError(400, "echo cannot go with suffix", "echo")
        if request.max_tokens == 0 and not request.echo:
            raise ApiError(400, "max_tokens is 0: give at least 1, or echo", "max_tokens")

    def _ids(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        tokenizer, suffix = self.served.llm.tokenizer, self.request.suffix
        allow = self.request.qwell.allow_special
        if not isinstance(prompt, str):
            if suffix is None:
                return prompt
            raise ApiError(400, "suffix needs a prompt that is a text", "suffix")
        if suffix is None:
            return tuple(tokenizer.encode(prompt, allow_special=allow))
        missing = [token for token in FIM if token not in tokenizer.special_tokens]
        if missing:
            raise ApiError(400, f"suffix: {self.served.name} has no {missing[0]}", "suffix")
        before, behind, middle = (tokenizer.special_tokens[token] for token in FIM)
        return (before, *tokenizer.encode(prompt), behind, *tokenizer.encode(suffix), middle)

    def _params(self) -> SamplingParams:
        request, stops = self.request, self.request.stop_token_ids or ()
        if request.suffix is not None:
            known = self.served.llm.tokenizer.special_tokens
            stops = (*stops, *(known[token] for token in FIM_ENDS if token in known))
        wants_prompt = request.echo and request.logprobs is not None
        return read_params(
            self.served,
            request,
            # OpenAI's default; a raw text has no end of its own
            max_tokens=16 if request.max_tokens is None else max(1, request.max_tokens),
            logprobs=request.logprobs,
            prompt_logprobs=request.logprobs if wants_prompt else None,
            stop_token_ids=stops or None,
            grammar=read_structure(request.structured_outputs, "structured_outputs"),
        )

    @property
    def _only_echo(self) -> bool:
        return self.request.max_tokens == 0

    def count(self, completion: Completion) -> int:
        return 0 if self._only_echo else completion.usage.completion_tokens

    def _prompt_text(self, index: int) -> str:
        """The prompt as it is echoed."""
        if not self.request.echo:
            return ""
        if index not in self._echoes:
            ids = self.jobs[index // self.request.n].prompt_ids
            self._echoes[index] = self.served.llm.tokenizer.decode(ids)
        return self._echoes[index]

    def opening(self, index: int) -> Iterator[Json]:
        # With log-probabilities the echo waits: those of the prompt come with the end.
        if self.request.echo and self.request.logprobs is None:
            yield _choice(index, self._prompt_text(index))

    def choices(self, index: int, event: Event) -> Iterator[Json]:
        if self.request.echo and self.request.logprobs is not None:
            if isinstance(event, Finished):
                yield self.choice(index, event.completion)
        elif isinstance(event, Token) and not self._only_echo:
            piece = event.piece
            told = self._logprobs(index, piece.logprobs or ())
            if piece.text or told:
                yield _choice(index, piece.text, logprobs=told)
        elif isinstance(event, Finished):
            yield _choice(index, "", reason=self._reason(event.completion))

    def choice(self, index: int, completion: Completion) -> Json:
        text = self._prompt_text(index) + ("" if self._only_echo else completion.text)
        tokens = () if self._only_echo else completion.logprobs or ()
        told = (*(completion.prompt_logprobs or ()), *tokens)
        if self.request.logprobs is None:
            return _choice(index, text, reason=self._reason(completion))
        first = self.jobs[index // self.request.n].prompt_ids[0]
        logprobs = self._logprobs(index, told, first=first)
        return _choice(index, text, reason=self._reason(completion), logprobs=logprobs)

    def _reason(self, completion: Completion) -> str:
        return "length" if self._only_echo else completion.finish_reason

    def _logprobs(
        self, index: int, tokens: tuple[TokenLogprob | None, ...], *, first: int = -1
    ) -> Json | None:
        """OpenAI's four lists; `first` is the id of the token without a log-probability."""
        if self.request.logprobs is None:
            return None
        told: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for token in tokens:
            text = token_text(token) if token else self.served.llm.tokenizer.decode([first])
            at = self._offsets.get(index, 0)
            self._offsets[index] = at + len(token.token if token else text)
            told["tokens"].append(text)
            told["token_logprobs"].append(token.logprob if token else None)
            told["top_logprobs"].append(_top(token) if token else None)
            told["text_offset"].append(at)
        return told if tokens else None

    def facts(self) -> Json:
        return {
            "template": None,
            "system_prompt": "none",
            "fill_in_the_middle": self.request.suffix is not None,
            "grammar": getattr(self.jobs[0].params.grammar, "kind", None),
        }


def _prompts(given: Any) -> list[Any]:
    """One text, one list of ids, or several of either."""
    is_one = isinstance(given, str) or isinstance(given[0], int)
    return [given] if is_one else list(given)


def _top(token: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens, and always the chosen one."""
    return {token_text(other): other.logprob for other in (*token.top, token)}


def _choice(index: int, text: str, *, logprobs: Json | None = None, reason: Any = None) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
