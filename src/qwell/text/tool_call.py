"""One tool call: the JSON between `<tool_call>` and `</tool_call>`, read strictly.

The arguments stay the text the model wrote; nothing is rounded or reordered on the way. Does not
know where a call stands in a reply (tools.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

SPACE = " \t\r\n"
"""White space of JSON."""


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: str
    """A JSON object, as the model wrote it."""


def read_call(body: str) -> ToolCall | None:
    """The call in the JSON between the tags, or None if it is none.

    An object with `name`, a text, and `arguments`: an object, or a string that holds one; without
    them it calls with no arguments. Other keys are none of the format's. Text that no UTF-8 can
    carry (a lone surrogate) makes it no call: nobody could send it on.
    """
    try:
        members = _members(body)
        name = json.loads(members.pop("name", "null"))
        arguments = members.pop("arguments", "{}")
        value = _loads(arguments)
        if isinstance(value, str):
            arguments, value = value.strip(SPACE), _loads(value)
        json.dumps([name, value], ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    is_call = isinstance(name, str) and name and isinstance(value, dict) and not members
    return ToolCall(name, arguments) if is_call else None


def _members(body: str) -> dict[str, str]:
    """A JSON object as name -> JSON text of the value. Raises ValueError if it is none, or if a
    name comes twice: which of the two was meant?"""
    pairs = _loads(body, object_pairs_hook=list)
    if not body.lstrip(SPACE).startswith("{") or len(dict(pairs)) != len(pairs):
        raise ValueError("not an object with different names")
    members, at = {}, body.index("{") + 1
    for key, _ in pairs:
        at = DECODER.raw_decode(body, skip_space(body, at))[1]
        start = skip_space(body, skip_space(body, at) + 1)  # behind the colon
        end = DECODER.raw_decode(body, start)[1]
        members[key] = body[start:end]
        at = skip_space(body, end) + 1
    return members


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse)


def _loads(text: str, **how: Any) -> Any:
    return json.loads(text, parse_constant=_refuse, **how)


def skip_space(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in SPACE:
        at += 1
    return at
