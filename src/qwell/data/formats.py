"""Records of conversations -> messages and tools, whichever of three common formats they are in.

    messages  {"messages": [{"role", "content", "tool_calls"?}], "tools"?}        OpenAI's
    sharegpt  {"conversations": [{"from", "value"}], "system"?, "tools"?}
    alpaca    {"instruction", "input"?, "output", "system"?, "history"?}

A record that is not of its format is refused with its file and line; no key is skipped unread but
those beside the conversation (an id, a source, a score).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwell.data.records import Record, loads
from qwell.errors import DataError, UsageError

Message = dict[str, Any]

_MESSAGE_KEYS = frozenset(["role", "content", "tool_calls", "tool_call_id", "name", "weight"])
_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
"""Roles of ShareGPT files, as the tools that read them agree."""


@dataclass(frozen=True)
class Conversation:
    """Messages as `encode_chat` takes them. A message may have `weight` 0: it is not learnt."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    place: str


def read_conversation(record: Record, form: str) -> Conversation:
    """The conversation in a record of that format. Raises DataError naming the place."""
    if not isinstance(record.value, Mapping):
        raise DataError(f"{record.place}: is not an object: mend or remove it")
    try:
        messages = FORMATS[form](record.value)
        tools = _tools(record.value.get("tools"))
    except _WrongError as error:
        raise DataError(f"{record.place}: {error}: mend or remove it") from error
    return Conversation(messages, tools, record.place)


def detect_format(record: Record) -> str:
    """The format a record is in. Raises DataError naming the keys it has."""
    value = record.value if isinstance(record.value, Mapping) else {}
    turns = value.get("conversations", value.get("messages"))
    first = turns[0] if isinstance(turns, Sequence) and turns else None
    if isinstance(first, Mapping) and "from" in first:
        return "sharegpt"
    if isinstance(first, Mapping) and "role" in first:
        return "messages"
    if "instruction" in value and "output" in value:
        return "alpaca"
    keys = ", ".join(map(str, value))[:200] or "none"
    raise DataError(
        f"{record.place}: is no conversation in a known format (its keys: {keys}): "
        f"write it as one of {', '.join(FORMATS)}"
    )


def check_format(form: str | None) -> None:
    """Raises UsageError for a format nobody knows."""
    if form is not None and form not in FORMATS:
        raise UsageError(f"format {form!r} is unknown: use one of {', '.join(FORMATS)}")


class _WrongError(Exception):
    """What is wrong with a record."""


def _from_messages(value: Mapping[str, Any]) -> list[Message]:
    turns = value.get("messages", value.get("conversations"))
    return [_message(turn, f"messages[{i}]") for i, turn in enumerate(_list(turns, "messages"))]


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise _WrongError(f"{where} is not an object")
    # Parquet gives every message the keys of all others, empty.
    message = {k: v for k, v in turn.items() if v is not None or k in ("role", "content")}
    if strange := set(message) - _MESSAGE_KEYS:
        raise _WrongError(f"{where} has a key {min(strange)!r} that would not be learnt from")
    _check_weight(message, where)
    return message


def _check_weight(message: Mapping[str, Any], where: str) -> None:
    if message.get("weight", 1) not in (0, 1):
        raise _WrongError(f"{where}.weight is {message['weight']!r:.40}, not 0 or 1")


def _from_sharegpt(value: Mapping[str, Any]) -> list[Message]:
    turns = _list(value.get("conversations", value.get("messages")), "conversations")
    messages = [_turn(turn, f"conversations[{i}]") for i, turn in enumerate(turns)]
    return _system(value) + messages


def _turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise _WrongError(f"{where} is not an object")
    if strange := {k for k, v in turn.items() if v is not None} - {"from", "value", "weight"}:
        raise _WrongError(f"{where} has a key {min(strange)!r} that would not be learnt from")
    role = _ROLES.get(str(turn.get("from")))
    if role is None:
        raise _WrongError(f"{where}.from is {turn.get('from')!r:.40}, none of {', '.join(_ROLES)}")
    text = _text(turn.get("value"), f"{where}.value")
    weight = {} if turn.get("weight") is None else {"weight": turn["weight"]}
    _check_weight(weight, where)
    if turn["from"] == "function_call":
        return {"role": role, "content": None, "tool_calls": _calls(text, where), **weight}
    return {"role": role, "content": text, **weight}


def _calls(text: str, where: str) -> list[Any]:
    try:
        found = loads(text)
    except ValueError as error:
        raise _WrongError(f"{where}.value is not the JSON of a call") from error
    return found if isinstance(found, list) else [found]


def _from_alpaca(value: Mapping[str, Any]) -> list[Message]:
    question = _text(value.get("instruction"), "instruction")
    if extra := _text(value.get("input") or "", "input"):
        question = f"{question}\n{extra}" if question else extra
    earlier: list[Message] = []
    for i, pair in enumerate(_list(value.get("history") or [], "history")):
        asked, told = (*pair, None, None)[:2] if isinstance(pair, list | tuple) else (None, None)
        if isinstance(pair, list | tuple) and len(pair) > 2:
            raise _WrongError(f"history[{i}] has {len(pair)} entries, not a question and an answer")
        earlier.append({"role": "user", "content": _text(asked, f"history[{i}][0]")})
        earlier.append({"role": "assistant", "content": _text(told, f"history[{i}][1]")})
    answer = {"role": "assistant", "content": _text(value.get("output"), "output")}
    return [*_system(value), *earlier, {"role": "user", "content": question}, answer]


def _system(value: Mapping[str, Any]) -> list[Message]:
    text = value.get("system")
    return [] if text is None else [{"role": "system", "content": _text(text, "system")}]


def _tools(tools: Any) -> list[dict[str, Any]] | None:
    """A list of tools, or its JSON; an empty one is none."""
    if isinstance(tools, str) and tools:
        try:
            tools = loads(tools)
        except ValueError as error:
            raise _WrongError("tools is not JSON") from error
    if not tools:
        return None
    return [dict(tool) if isinstance(tool, Mapping) else tool for tool in _list(tools, "tools")]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _WrongError(f"{where} is {'missing' if value is None else 'not text'}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _WrongError(f"{where} is {'missing' if value is None else 'not a list'}")
    return value


FORMATS: dict[str, Callable[[Mapping[str, Any]], list[Message]]] = {
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "alpaca": _from_alpaca,
}
