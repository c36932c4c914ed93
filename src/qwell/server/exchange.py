"""One request between its jobs and its body: what both kinds of reply have in common.

A kind (chat.py, completions.py) reads the request into jobs, turns events into the chunks of a
stream, and completions into one body. The two ways say the same; who sends them is stream.py.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from qwell.engine.jobs import Event, Failed, Finished, Job, Started
from qwell.engine.types import Completion, TokenLogprob
from qwell.server.errors import ApiError
from qwell.server.requests import Common
from qwell.server.sampling import in_force
from qwell.server.served import Served

Json = dict[str, Any]


MAX_LOGPROBS = 1_000_000
"""Log-probabilities one answer may hold, 0.3 kB each: a reply of 32,768 tokens with all 20."""


class Exchange(ABC):
    """jobs: what the service is asked. Choice k of job j is choice j * n + k of the reply."""

    prefix: str
    whole_kind: str
    chunk_kind: str

    def __init__(self, served: Served, request: Common, ignored: tuple[str, ...]) -> None:
        served.check_model(request.model)
        self.served, self.request, self.ignored = served, request, ignored
        self.id, self.created = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())
        self.jobs: list[Job] = []
        self._cached: dict[int, int] = {}
        self._ended: dict[int, Completion] = {}

    @property
    def is_done(self) -> bool:
        return len(self._ended) == len(self.jobs) * self.request.n

    def hear(self, job: int, event: Event) -> int:
        """Takes an event; gives the choice it is about. Raises what failed."""
        index = job * self.request.n + event.choice
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Started):
            self._cached[job] = max(self._cached.get(job, 0), event.cached_tokens)
        if isinstance(event, Finished):
            if event.completion.finish_reason == "cancelled":
                raise ApiError(503, "the server is shutting down: ask again later", code="draining")
            self._ended[index] = event.completion
        return index

    def chunks(self, job: int, event: Event) -> Iterator[Json]:
        """Hears an event; gives the chunks of a stream that it makes certain."""
        index = self.hear(job, event)
        told = self.opening(index) if isinstance(event, Started) else self.choices(index, event)
        yield from map(self._chunk, told)

    def last(self) -> Iterator[Json]:
        """The chunk with the counts, if asked for."""
        if self.request.stream_options.include_usage:
            yield {**self._head(self.chunk_kind), "choices": [], "usage": self.usage()}

    def whole(self) -> Json:
        """The body of a reply that is not streamed, when all choices have ended."""
        choices = [self.choice(index, self._ended[index]) for index in sorted(self._ended)]
        return {
            **self._head(self.whole_kind),
            "choices": choices,
            "usage": self.usage(),
            **self._truth(),
        }

    @abstractmethod
    def opening(self, index: int) -> Iterator[Json]:
        """Choices of chunks sent before the first token."""

    @abstractmethod
    def choices(self, index: int, event: Event) -> Iterator[Json]:
        """Choices of chunks for a Token or Finished."""

    @abstractmethod
    def choice(self, index: int, completion: Completion) -> Json:
        """A whole choice."""

    @abstractmethod
    def facts(self) -> Json:
        """What the truth block says beside counts, sampling and ends."""

    def usage(self) -> Json:
        """OpenAI's counts, over all choices that have ended."""
        prompt = sum(len(job.prompt_ids) for job in self.jobs)
        reply = sum(self.count(done) for done in self._ended.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": reply,
            "total_tokens": prompt + reply,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached.values())},
        }

    def summary(self) -> str:
        """A line for the log: who, how many tokens, how it ended. No word of what was said."""
        usage = self.usage()
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        ends = sorted({done.finish_reason for done in self._ended.values()})
        return (
            f"{self.id} {self.jobs[0].key or '-'}: {usage['prompt_tokens']:,} prompt tokens, "
            f"{cached:,} of them cached; {usage['completion_tokens']:,} reply tokens; "
            f"{', '.join(ends) if self.is_done else 'not finished'}"
        )

    def count(self, completion: Completion) -> int:
        """Tokens of a choice that `usage` counts."""
        return completion.usage.completion_tokens

    def _chunk(self, choice: Json) -> Json:
        more: Json = {"usage": None} if self.request.stream_options.include_usage else {}
        ends = choice.get("finish_reason") is not None
        truth = self._truth() if ends and self.is_done else {}
        return {**self._head(self.chunk_kind), "choices": [choice], **more, **truth}

    def _head(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": None,
        }

    def _truth(self) -> Json:
        """{"qwell": {"truth": ...}} if it was asked for."""
        if not self.request.qwell.truth:
            return {}
        ends: list[Json] = [
            {
                "index": index,
                "finish_reason": done.finish_reason,
                "stop_reason": done.stop_reason,
                "detected_loop": done.detected_loop,
                "seed": done.seed,
                "timings": asdict(done.timings),
            }
            for index, done in sorted(self._ended.items())
        ]
        usage = self.usage()
        truth = {
            "prompt_tokens_sent": usage["prompt_tokens"],
            "prompt_tokens_used": usage["prompt_tokens"],
            "prompt_tokens_cached": usage["prompt_tokens_details"]["cached_tokens"],
            "completion_tokens": usage["completion_tokens"],
            "max_context": self.served.llm.max_context,
            "adapter": self.served.llm.adapter_id or None,
            "sampling": in_force(self.jobs[0].params, self.request, ends[0]["seed"]),
            "ignored": list(self.ignored),
            "choices": ends,
            **self.facts(),
        }
        return {"qwell": {"truth": truth}}


def check_logprobs(jobs: Sequence[Job], max_context: int) -> None:
    """Raises ApiError 400 if an answer could hold more than MAX_LOGPROBS log-probabilities."""
    most = 0
    for job in jobs:
        room = max(0, max_context - len(job.prompt_ids))
        told = room if job.params.max_tokens is None else min(job.params.max_tokens, room)
        for each, tokens in (
            (job.params.logprobs, told),
            (job.params.prompt_logprobs, len(job.prompt_ids)),
        ):
            most += 0 if each is None else job.n * tokens * (each + 1)
    if most > MAX_LOGPROBS:
        raise ApiError(
            400,
            f"logprobs: this could be {most:,} of them, at most {MAX_LOGPROBS:,} are told: lower "
            "n, max_tokens or how many for each token",
            "logprobs",
        )


def token_text(token: TokenLogprob) -> str:
    """The text of a token; one that is no whole text is spelled by its bytes, so that two
    different tokens never look the same."""
    try:
        return token.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)
