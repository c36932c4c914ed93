"""What the service takes and what it tells: plain frozen values, and the one refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from qwell.engine.types import Completion, Piece, SamplingParams
from qwell.errors import QwellError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of the queue, over all keys; what is above is refused at once."""

    max_queued: int = 256
    """Replies that wait."""
    max_queued_tokens: int = 262_144
    """Prompt tokens that wait."""
    max_wait_s: float = 60.0
    """The estimated time until a new request would begin."""
    max_compiling: int = 40
    """Requests whose new grammars are compiled or wait for that. Fewer than a server reads at a
    time, so that grammars that take long never keep others from being read."""
    step_ms: float = 120.0
    """How long a step should take: the gap between two tokens of a stream while prompts are read.
    Shorter steps read prompts more slowly."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request: n replies to one prompt."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    n: int = 1
    key: str = ""
    """Whose it is: keys take turns, and share no pages of the cache."""
    priority: int = 0
    """Higher ones go first; ten seconds of waiting count as one more."""
    deadline_s: float | None = None
    """From submission; then the replies end with what they have, and 'deadline'."""


class Overloaded(QwellError):  # noqa: N818
    """Refused for now. reason: 'queue', 'tokens', 'wait', 'grammars' or 'draining'."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        self.reason, self.retry_after_s = reason, retry_after_s
        what = {
            "queue": "too many requests wait",
            "tokens": "too many prompt tokens wait",
            "wait": "the estimated wait is too long",
            "grammars": "too many grammars are being compiled",
            "draining": "the server is shutting down",
        }[reason]
        super().__init__(f"{what}: try again in {math.ceil(retry_after_s)} s")


@dataclass(frozen=True)
class Started:
    """Its first row is computed in this step."""

    choice: int
    cached_tokens: int


@dataclass(frozen=True)
class Token:
    """New text, or tokens whose text is held back yet."""

    choice: int
    piece: Piece


@dataclass(frozen=True)
class Finished:
    """The whole reply; the last event of its choice."""

    choice: int
    completion: Completion


@dataclass(frozen=True)
class Failed:
    """What ended the choice in place of Finished."""

    choice: int
    error: Exception


Event = Started | Token | Finished | Failed
OnEvent = Callable[[Event], None]
"""Called from the engine's thread, so it must not block."""
