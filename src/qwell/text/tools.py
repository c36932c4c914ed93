"""Tool calls in a reply, in the Hermes format Qwen2.5 was trained on:

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Oslo"}}
    </tool_call>

- A call is told when it is whole: no client can take back half a call that turns out broken.
- `</tool_call>` inside a JSON string is part of the string.
- What is not a call stays visible text and is flagged, from its `<tool_call>` to the next tag or
  the end. A call that is never closed is broken too. Code fences change nothing.
- White space beside a call belongs to the call: it stays only between two visible texts.

`ToolStream` reads text in any pieces; `parse_tool_calls` reads the whole by another way and must
say the same. Neither knows which tools there are: an unknown name is the caller's business.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from qwell.text.tool_call import DECODER, SPACE, ToolCall, read_call, skip_space

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_OUTSIDE = frozenset(SPACE + '{}[]:,"+-.0123456789eEtrufalsn')
"""All of JSON outside its strings."""
_TAGS = re.compile(f"{OPEN}|{CLOSE}")


@dataclass(frozen=True)
class TextDelta:
    """Visible text."""

    text: str


@dataclass(frozen=True)
class MalformedCall:
    """Visible text that began like a call and is none; often a piece of it."""

    text: str


@dataclass(frozen=True)
class CallBegin:
    index: int
    """0, 1, ... over the calls of the reply."""
    id: str
    name: str


@dataclass(frozen=True)
class ArgumentsDelta:
    """Joined over one index, the text of a JSON object."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnd:
    index: int


ToolEvent = TextDelta | MalformedCall | CallBegin | ArgumentsDelta | CallEnd


@dataclass(frozen=True)
class ToolReply:
    """A whole reply: `text` is all that is visible, `malformed` the flagged part of it."""

    text: str
    calls: tuple[ToolCall, ...]
    malformed: str


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class ToolStream:
    """One reply, read in pieces. new_id names the calls."""

    def __init__(self, new_id: Callable[[], str] = new_call_id) -> None:
        self._new_id = new_id
        self._buffer = ""
        """Read and not yet told: from the first character that may be part of a tag on."""
        self._state = self._read_text
        self._body = _Body()
        self._read = 0  # how much of the buffer belongs to a tag or to _body
        self._num_calls = 0
        self._space = _Space()

    def push(self, text: str) -> list[ToolEvent]:
        """What this piece of the reply makes certain."""
        self._buffer += text
        return list(self._run(is_last=False))

    def finish(self) -> list[ToolEvent]:
        """What is left at the end of the reply. Nothing may be pushed afterwards."""
        return list(self._run(is_last=True))

    def _run(self, is_last: bool) -> Iterator[ToolEvent]:
        state = None
        while state != self._state:  # a state that stays has used up the buffer
            state = self._state
            yield from state(is_last)
        if is_last:
            yield from _text_delta(self._space.end())

    def _read_text(self, is_last: bool) -> Iterator[ToolEvent]:
        text, tag, rest = self._buffer.partition(OPEN)
        if tag:
            self._buffer, self._read, self._body = tag + rest, len(OPEN), _Body()
            self._state = self._read_call
        else:
            held = "" if is_last else _tag_start(text, (OPEN,))
            text, self._buffer = text.removesuffix(held), held
        yield from _text_delta(self._space.text(text))

    def _read_call(self, is_last: bool) -> Iterator[ToolEvent]:
        ended = None
        while ended is None and self._read < len(self._buffer):
            ended = self._body.push(self._buffer[self._read])
            self._read += 1
        call = None
        if ended:
            call = read_call(self._buffer[len(OPEN) : self._read - len(CLOSE)])
        if call:
            self._buffer, self._state = self._buffer[self._read :], self._read_text
            yield from self._tell(call)
        elif ended is not None or is_last:
            self._read, self._state = len(OPEN), self._read_broken

    def _tell(self, call: ToolCall) -> Iterator[ToolEvent]:
        self._space.call()
        index, self._num_calls = self._num_calls, self._num_calls + 1
        yield CallBegin(index, self._new_id(), call.name)
        yield ArgumentsDelta(index, call.arguments)
        yield CallEnd(index)

    def _read_broken(self, is_last: bool) -> Iterator[ToolEvent]:
        """Up to the next tag; `_read` is behind the opening one until it has been told."""
        tag = _TAGS.search(self._buffer, self._read)
        if tag:
            end = tag.end() if tag[0] == CLOSE else tag.start()
            self._state = self._read_text
        else:
            end = len(self._buffer)
            end -= 0 if is_last else len(_tag_start(self._buffer[self._read :], (OPEN, CLOSE)))
        text, self._buffer, self._read = self._buffer[:end], self._buffer[end:], 0
        if text:
            yield from _text_delta(self._space.visible())
            yield MalformedCall(text)


class _Body:
    """Follows the characters after `<tool_call>` to where the call ends or cannot be one."""

    def __init__(self) -> None:
        self._depth, self._tag = 0, 0  # open brackets; characters of CLOSE seen
        self._begun = self._in_string = self._escaped = False

    def push(self, char: str) -> bool | None:
        """True: `</tool_call>` is complete behind an object; False: no call; None: go on."""
        if self._in_string:
            return self._push_string(char)
        if self._tag or (char == "<" and self._begun and not self._depth):
            self._tag += 1
            right = char == CLOSE[self._tag - 1]
            return (True if self._tag == len(CLOSE) else None) if right else False
        if char in SPACE:
            return None
        if char not in _OUTSIDE or (not self._depth and (self._begun or char != "{")):
            return False
        self._begun, self._in_string = True, char == '"'
        self._depth += (char in "{[") - (char in "}]")
        return None

    def _push_string(self, char: str) -> bool | None:
        if char < " ":  # JSON writes control characters as escapes
            return False
        self._in_string = self._escaped or char != '"'
        self._escaped = not self._escaped and char == "\\"
        return None


class _Space:
    """Holds back white space until it is known whether a call stands beside it."""

    def __init__(self) -> None:
        self._held = ""
        self._is_visible = self._touches_call = False

    def text(self, text: str) -> str:
        """What of the text so far may be shown."""
        body = text.rstrip(SPACE)
        if not body:
            self._held += text
            return ""
        inner = body.lstrip(SPACE)
        self._held += body.removesuffix(inner)
        shown = self.visible() + inner
        self._held = text.removeprefix(body)
        return shown

    def visible(self) -> str:
        """The white space before something visible that comes now."""
        shown = "" if self._touches_call and not self._is_visible else self._held
        self._held, self._touches_call, self._is_visible = "", False, True
        return shown

    def call(self) -> None:
        self._touches_call = True

    def end(self) -> str:
        return "" if self._touches_call else self._held


def _text_delta(text: str) -> Iterator[ToolEvent]:
    if text:
        yield TextDelta(text)


def _tag_start(text: str, tags: tuple[str, ...]) -> str:
    """The longest end of text that begins one of the tags."""
    at = text.rfind("<", -len(CLOSE), len(text))
    return text[at:] if at >= 0 and any(tag.startswith(text[at:]) for tag in tags) else ""


def parse_tool_calls(text: str) -> ToolReply:
    """The whole reply at once: what a ToolStream tells of it, joined. The slow, obvious twin."""
    shown: list[str | ToolCall] = []  # characters, calls, and broken calls, each as one text
    malformed, at = "", 0
    while (opening := text.find(OPEN, at)) >= 0:
        shown += text[at:opening]
        call, at = _call_at(text, opening + len(OPEN))
        if call is None:
            tag = _TAGS.search(text, opening + len(OPEN))
            at = len(text) if not tag else tag.end() if tag[0] == CLOSE else tag.start()
            malformed += text[opening:at]
        shown.append(call or text[opening:at])
    shown += text[at:]
    visible = _trimmed(_trimmed(shown)[::-1])[::-1]
    return ToolReply(
        text="".join(item for item in visible if isinstance(item, str)),
        calls=tuple(item for item in shown if isinstance(item, ToolCall)),
        malformed=malformed,
    )


def _call_at(text: str, at: int) -> tuple[ToolCall | None, int]:
    """The call whose body begins there, and where it ends behind `</tool_call>`."""
    try:
        start = skip_space(text, at)
        _, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, at
    close = skip_space(text, end)
    if not text.startswith(CLOSE, close):
        return None, at
    return read_call(text[start:end]), close + len(CLOSE)


def _trimmed(shown: list[str | ToolCall]) -> list[str | ToolCall]:
    """Without the white space at its beginning, if a call stands in it."""
    edge = list(takewhile(lambda item: isinstance(item, ToolCall) or item in SPACE, shown))
    has_call = any(isinstance(item, ToolCall) for item in edge)
    return shown[len(edge) :] if has_call else shown
