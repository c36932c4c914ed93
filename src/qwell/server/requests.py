"""What may be asked: one table for each request. Reading and documentation come from it.

Names and ranges are OpenAI's; beside them stand the names other servers of Qwen use (top_k, min_p,
repetition_penalty, partial), and `qwell` for what only this server has. Meaning is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from qwell.server.errors import ApiError
from qwell.server.fields import (
    Either,
    Flag,
    Free,
    Json,
    Many,
    Mapped,
    Number,
    Record,
    Rule,
    Text,
    Whole,
    needed,
    option,
)

MAX_CHOICES = 128
MAX_TOKENS = 2**31 - 1
MAX_STOPS = 16
ID = Whole(0, 2**31 - 1)
IDS = Many(ID, 262_144)
STOP = Either(
    (Text(1024, 1), Many(Text(1024, 1), MAX_STOPS)), "a text or a list of texts that end the reply"
)
PROMPT = Either(
    (Text(), Many(Text(), MAX_CHOICES, 1), Many(ID, 262_144, 1), Many(IDS, MAX_CHOICES, 1)),
    "a text, token ids, or a list of either",
)

T = TypeVar("T")


def read(of: type[T], value: Any, *, strict: bool) -> tuple[T, tuple[str, ...]]:
    """The request and what was ignored of it. Raises ApiError 400; with `strict` also for a field
    nobody knows. A known field without effect (`user`) is told and never refused."""
    strange: list[str] = []
    found: T = Record(of).read(value, "", strange)
    inert = {path for path in strange if is_inert(of, path)}
    unknown = [path for path in strange if path not in inert]
    if strict and unknown:
        raise ApiError(
            400, f"{unknown[0]} is no field of this request: leave it out", unknown[0], "unknown"
        )
    return found, tuple(strange)


def is_inert(of: type, path: str) -> bool:
    """Whether the field at the top of `of` is taken without effect."""
    field = getattr(of, "__dataclass_fields__", {}).get(path)
    return field is not None and field.metadata["has_no_effect"]


@dataclass(frozen=True, kw_only=True)
class Extra:
    """What only this server has."""

    truth: bool = option(Flag(), "tell in the reply what was really done", default=False)
    deadline_s: float | None = option(
        Number(0.001, 86_400), "seconds from now; then the reply ends with 'deadline'"
    )
    priority: int = option(Whole(-100, 0), "below 0: after the key's other requests", default=0)
    allow_special: bool = option(
        Flag(), "read <|im_start|> and the like in a raw prompt as tokens", default=False
    )


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How a stream is told."""

    include_usage: bool = option(Flag(), "a last chunk with the counts", default=False)


@dataclass(frozen=True, kw_only=True)
class Common:
    """What a chat and a completion share."""

    model: str | None = option(Text(256), "the model; by default the one that is served")
    max_tokens: int | None = option(Whole(0, MAX_TOKENS), "tokens of the reply at most")
    temperature: float | None = option(Number(0, 2), "0 takes the likeliest token")
    top_p: float | None = option(Number(0, 1), "keep the likeliest tokens up to this share")
    top_k: int | None = option(Whole(-1, 2**31 - 1), "keep so many tokens; 0 or -1 keeps all")
    min_p: float | None = option(Number(0, 1), "keep tokens so likely relative to the best")
    repetition_penalty: float | None = option(Number(0.01, 100), "of tokens seen; 1 is none")
    presence_penalty: float | None = option(Number(-2, 2), "once for tokens of the reply")
    frequency_penalty: float | None = option(Number(-2, 2), "for each use in the reply")
    logit_bias: dict[int, float] | None = option(
        Mapped(Number(-100, 100), 1024, int, "^[0-9]{1,9}$"), "token id -> added to its logit"
    )
    seed: int | None = option(Whole(-(2**63), 2**63 - 1), "the same seed, the same reply")
    stop: str | tuple[str, ...] | None = option(STOP, "the reply ends before the first of these")
    stop_token_ids: tuple[int, ...] | None = option(Many(ID, 64), "ids that end the reply")
    min_tokens: int | None = option(Whole(0, MAX_TOKENS), "no end in so many first tokens")
    ignore_eos: bool | None = option(Flag(), "go on when the model says it is done")
    n: int = option(Whole(1, MAX_CHOICES), "replies to the same prompt", default=1)
    stream: bool = option(Flag(), "send the reply as it comes", default=False)
    stream_options: StreamOptions = option(Record(StreamOptions), default=StreamOptions())
    structured_outputs: Json | None = option(
        Free(), "one of json (a schema), regex, grammar (Lark), choice (texts)"
    )
    qwell: Extra = option(Record(Extra), default=Extra())
    user: str | None = option(Text(512), "taken, and without effect", has_no_effect=True)
    metadata: Json | None = option(Free(), "taken, and without effect", has_no_effect=True)
    store: bool | None = option(Flag(), "nothing is stored", has_no_effect=True)
    service_tier: str | None = option(Text(64), "there is one tier", has_no_effect=True)


PART = Free()
CONTENT = Either((Text(), Many(PART, 1024)), "a text or a list of text parts")


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str = needed(Text(among=("system", "developer", "user", "assistant", "tool")))
    content: str | tuple[Json, ...] | None = option(CONTENT)
    name: str | None = option(Text(256), "taken; Qwen's templates do not show it")
    tool_calls: tuple[Json, ...] | None = option(Many(Free(), 1024), "of an assistant turn")
    tool_call_id: str | None = option(Text(256), "Qwen's templates go by order")
    partial: bool = option(Flag(), "continue this last assistant turn", default=False)


TOOL_CHOICE = Either((Text(64), Free()), "auto, none, required or an object that names a function")


@dataclass(frozen=True, kw_only=True)
class ChatRequest(Common):
    """POST /v1/chat/completions."""

    messages: tuple[Message, ...] = needed(Many(Record(Message), 8192, 1))
    max_completion_tokens: int | None = option(Whole(1, MAX_TOKENS), "newer name of max_tokens")
    logprobs: bool = option(Flag(), "tell log-probabilities", default=False)
    top_logprobs: int | None = option(Whole(0, 20), "and those of so many likeliest tokens")
    tools: tuple[Json, ...] | None = option(Many(Free(), 128), "functions the model may call")
    tool_choice: str | Json | None = option(TOOL_CHOICE)
    parallel_tool_calls: bool = option(Flag(), "several calls in one reply", default=True)
    response_format: Json | None = option(Free(), "text, json_object or json_schema")
    chat_template_kwargs: Json | None = option(Free(), "variables for the chat template")


@dataclass(frozen=True, kw_only=True)
class TextRequest(Common):
    """POST /v1/completions."""

    prompt: Any = needed(PROMPT)
    suffix: str | None = option(Text(), "what follows: the reply fills the middle (Coder models)")
    echo: bool = option(Flag(), "give the prompt back before the reply", default=False)
    logprobs: int | None = option(Whole(0, 20), "tell log-probabilities of so many tokens")
    best_of: int | None = option(Whole(1, MAX_CHOICES), "only as n")


@dataclass(frozen=True, kw_only=True)
class TokenizeRequest:
    """POST /tokenize."""

    model: str | None = option(Text(256))
    prompt: str | None = option(Text(), "a raw text; or give messages")
    messages: tuple[Message, ...] | None = option(Many(Record(Message), 8192, 1))
    tools: tuple[Json, ...] | None = option(Many(Free(), 128))
    add_generation_prompt: bool = option(Flag(), default=True)
    allow_special: bool = option(Flag(), "read <|im_start|> and the like as tokens", default=False)
    return_token_strs: bool = option(Flag(), default=False)
    add_special_tokens: bool | None = option(Flag(), "Qwen adds none", has_no_effect=True)


@dataclass(frozen=True, kw_only=True)
class DetokenizeRequest:
    """POST /detokenize."""

    model: str | None = option(Text(256))
    tokens: tuple[int, ...] = needed(IDS)
    skip_special: bool = option(Flag(), "leave control tokens out", default=False)


@dataclass(frozen=True, kw_only=True)
class TemplateRequest:
    """POST /apply_template."""

    model: str | None = option(Text(256))
    messages: tuple[Message, ...] = needed(Many(Record(Message), 8192, 1))
    tools: tuple[Json, ...] | None = option(Many(Free(), 128))
    add_generation_prompt: bool = option(Flag(), default=True)
    chat_template_kwargs: Json | None = option(Free())


RULES: dict[str, Rule] = {
    of.__name__: Record(of)
    for of in (ChatRequest, TextRequest, TokenizeRequest, DetokenizeRequest, TemplateRequest)
}
