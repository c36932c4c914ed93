"""POST /v1/chat/completions: messages become a prompt, a reply becomes a message.

Tool calls are read out of the text by one ToolStream, piece by piece in a stream and all at once
otherwise, so both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from qwell.engine.grammar_spec import GrammarSpec
from qwell.engine.jobs import Event, Finished, Job, Token
from qwell.engine.types import Completion, SamplingParams, TokenLogprob
from qwell.errors import TextError
from qwell.server.auth import Tenant
from qwell.server.errors import ApiError
from qwell.server.exchange import Exchange, Json, check_logprobs
from qwell.server.requests import ChatRequest, Message
from qwell.server.sampling import read_format, read_params, read_structure
from qwell.server.served import Served
from qwell.text.chat import encode_chat
from qwell.text.tool_request import ToolChoice, ToolSpec, read_tool_choice, read_tools
from qwell.text.tools import (
    ArgumentsDelta,
    CallBegin,
    CallEnd,
    MalformedCall,
    TextDelta,
    ToolEvent,
    ToolStream,
)

_CLOSE = "</tool_call>"


class ChatExchange(Exchange):
    """One job; its choices are messages."""

    prefix, whole_kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"
    request: ChatRequest

    def __init__(
        self, served: Served, request: ChatRequest, ignored: tuple[str, ...], tenant: Tenant
    ) -> None:
        super().__init__(served, request, ignored)
        self._specs = read_tools(request.tools)
        self._choice = read_tool_choice(request.tool_choice, self._specs)
        self._has_tools = bool(self._specs) and self._choice.mode != "none"
        # The grammar of forced calls allows one call alone; where the model is free, its first
        # closing tag ends the reply.
        self._stops_after_call = self._choice.mode == "auto" and self._has_tools
        self._stops_after_call &= not request.parallel_tool_calls
        self._replies: dict[int, _Message] = {}
        ids = chat_ids(served, request.messages, self._shown_tools(), request.chat_template_kwargs)
        self.jobs = [
            Job(
                prompt_ids=tuple(ids),
                params=self._params(),
                n=request.n,
                key=tenant.name,
                priority=tenant.priority + request.qwell.priority,
                deadline_s=request.qwell.deadline_s,
            )
        ]
        check_logprobs(self.jobs, served.llm.max_context)

    def _shown_tools(self) -> list[Json] | None:
        """With tool_choice 'none' the model is not told of tools, so it cannot call one."""
        return [dict(spec.raw) for spec in self._specs] if self._has_tools else None

    def _params(self) -> SamplingParams:
        request = self.request
        limits = {request.max_tokens, request.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ApiError(
                400, "max_tokens and max_completion_tokens differ: give one", "max_tokens"
            )
        if 0 in limits:
            raise ApiError(400, "max_tokens is 0: give at least 1", "max_tokens")
        if request.top_logprobs is not None and not request.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs")
        params = read_params(
            self.served,
            request,
            max_tokens=next(iter(limits), None),
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            grammar=_grammar(request, self._specs, self._choice),
        )
        stops = (*params.stop, _CLOSE) if self._stops_after_call else params.stop
        return replace(params, stop=stops)

    def opening(self, index: int) -> Iterator[Json]:
        self._replies[index] = _Message(self._has_tools)
        yield _delta(index, {"role": "assistant", "content": ""})

    def choices(self, index: int, event: Event) -> Iterator[Json]:
        reply = self._replies.setdefault(index, _Message(self._has_tools))
        if isinstance(event, Token):
            deltas = list(reply.push(event.piece.text))
            logprobs = self._logprobs(event.piece.logprobs)
            if logprobs and not deltas:
                deltas = [{}]
            for i, delta in enumerate(deltas):
                yield _delta(index, delta, logprobs=logprobs if i == 0 else None)
        elif isinstance(event, Finished):
            for delta in reply.finish(self._tail(event.completion)):
                yield _delta(index, delta)
            reason = reply.finish_reason(event.completion.finish_reason)
            yield _delta(index, {}, reason=reason) | reply.flag()

    def choice(self, index: int, completion: Completion) -> Json:
        reply = _Message(self._has_tools)
        deltas = [*reply.push(completion.text), *reply.finish(self._tail(completion))]
        message: Json = {"role": "assistant", "content": None, "refusal": None}
        texts = [delta["content"] for delta in deltas if "content" in delta]
        if texts or not reply.num_calls:
            message["content"] = "".join(texts)
        if reply.num_calls:
            message["tool_calls"] = _joined(deltas)
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(completion.logprobs),
            "finish_reason": reply.finish_reason(completion.finish_reason),
            **reply.flag(),
        }

    def _tail(self, completion: Completion) -> str:
        """The closing tag at which the engine stopped for us: it belongs to the call."""
        ours = self._stops_after_call and completion.stop_reason == _CLOSE
        return _CLOSE if ours else ""

    def _logprobs(self, tokens: tuple[TokenLogprob, ...] | None) -> Json | None:
        if not tokens:
            return None
        return {"content": [_logprob(token, with_top=True) for token in tokens], "refusal": None}

    def facts(self) -> Json:
        first = self.request.messages[0].role in ("system", "developer")
        default = "template default" if self.served.default_system is not None else "none"
        return {
            "template": self.served.template_id,
            "system_prompt": "request" if first else default,
            "tools_shown": len(self._specs) if self._has_tools else 0,
            "grammar": getattr(self.jobs[0].params.grammar, "kind", None),
        }


class _Message:
    """The visible half of one choice as it grows."""

    def __init__(self, has_tools: bool) -> None:
        self._tools = ToolStream() if has_tools else None
        self._is_malformed = False
        self.num_calls = 0

    def push(self, text: str) -> Iterator[Json]:
        """Deltas of a message."""
        if self._tools:
            yield from self._deltas(self._tools.push(text))
        elif text:
            yield {"content": text}

    def finish(self, tail: str) -> Iterator[Json]:
        if self._tools:
            yield from self._deltas([*self._tools.push(tail), *self._tools.finish()])

    def _deltas(self, events: list[ToolEvent]) -> Iterator[Json]:
        for event in events:
            if isinstance(event, TextDelta | MalformedCall):
                self._is_malformed |= isinstance(event, MalformedCall)
                yield {"content": event.text}
            elif isinstance(event, CallBegin):
                self.num_calls += 1
                function = {"name": event.name, "arguments": ""}
                yield _call(event.index, id=event.id, type="function", function=function)
            elif isinstance(event, ArgumentsDelta):
                yield _call(event.index, function={"arguments": event.text})
            else:
                assert isinstance(event, CallEnd)

    def finish_reason(self, reason: str) -> str:
        return "tool_calls" if self.num_calls and reason == "stop" else reason

    def flag(self) -> Json:
        """Text that began like a call and is none is shown, and said to be that."""
        return {"qwell": {"malformed_tool_call": True}} if self._is_malformed else {}


def _call(index: int, **parts: Any) -> Json:
    return {"tool_calls": [{"index": index, **parts}]}


def _joined(deltas: list[Json]) -> list[Json]:
    """The calls of a whole message out of the deltas of a stream."""
    calls: dict[int, Json] = {}
    for delta in deltas:
        for part in delta.get("tool_calls", ()):
            if "id" in part:
                function = dict(part["function"])
                calls[part["index"]] = {"id": part["id"], "type": "function", "function": function}
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return list(calls.values())


def _delta(index: int, delta: Json, *, logprobs: Json | None = None, reason: Any = None) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _logprob(token: TokenLogprob, *, with_top: bool) -> Json:
    told = {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}
    if with_top:
        told["top_logprobs"] = [_logprob(other, with_top=False) for other in token.top]
    return told


def _grammar(
    request: ChatRequest, specs: tuple[ToolSpec, ...], choice: ToolChoice
) -> GrammarSpec | None:
    """What the reply must fit: a format, a structure or calls of tools; at most one of them."""
    tools = GrammarSpec.tool_calls(specs, choice, parallel=request.parallel_tool_calls)
    wanted = {
        "response_format": read_format(request.response_format),
        "structured_outputs": read_structure(request.structured_outputs, "structured_outputs"),
        "tool_choice": tools,
    }
    given = [name for name, spec in wanted.items() if spec]
    if len(given) > 1:
        raise ApiError(400, f"{given[0]} and {given[1]} cannot both be kept: give one", given[0])
    return wanted[given[0]] if given else None


def plain_messages(messages: tuple[Message, ...]) -> list[Json]:
    """As templates take them: no empty fields, `developer` is the newer name of `system`."""
    plain = []
    for message in messages:
        one: Json = {"role": message.role.replace("developer", "system")}
        for name in ("content", "name", "tool_calls", "tool_call_id"):
            value = getattr(message, name)
            if value is not None:
                one[name] = list(value) if isinstance(value, tuple) else value
        if "content" not in one and message.role != "assistant":
            one["content"] = None
        plain.append(one)
    return plain


def chat_ids(
    served: Served,
    messages: tuple[Message, ...],
    tools: list[Json] | None,
    extra: Json | None = None,
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """Ids of the prompt; a last turn that is `partial` stays open. Raises TextError, ApiError."""
    llm = served.llm
    if llm.template is None:
        raise ApiError(400, f"{served.name} has no chat template: use /v1/completions", "messages")
    for i, message in enumerate(messages[:-1]):
        if message.partial:
            raise ApiError(400, f"messages[{i}].partial is for the last message", "messages")
    clash = {"messages", "tools", "add_generation_prompt", "tokenizer", "template"} & set(
        extra or ()
    )
    if clash:
        name = f"chat_template_kwargs.{min(clash)}"
        raise ApiError(400, f"{name} has a field of its own: leave it out here", name)
    is_partial = messages[-1].partial
    if is_partial and messages[-1].role != "assistant":
        raise ApiError(400, "partial is for a message of the assistant", "messages")
    ids = encode_chat(
        llm.tokenizer,
        llm.template,
        plain_messages(messages),
        tools=tools,
        add_generation_prompt=add_generation_prompt and not is_partial,
        **{name: value for name, value in (extra or {}).items() if name != "allow_special"},
    )
    return _opened(served, ids) if is_partial else ids


def _opened(served: Served, ids: list[int]) -> list[int]:
    """Without the end of the last turn, so that the model goes on in it."""
    ends = set(served.llm.tokenizer.eos_ids)
    at = next((i for i in range(len(ids) - 1, -1, -1) if ids[i] in ends), -1)
    if at < 0 or served.llm.tokenizer.decode(ids[at + 1 :]).strip():
        raise TextError("messages: this chat template does not end a turn, so none can be partial")
    return ids[:at]
