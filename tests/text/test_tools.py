"""Tool calls out of text: every way to cut a reply into pieces tells what the whole says."""

from __future__ import annotations

import json
from itertools import count, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell.text.tool_call import ToolCall
from qwell.text.tools import (
    ArgumentsDelta,
    CallBegin,
    CallEnd,
    MalformedCall,
    TextDelta,
    ToolEvent,
    ToolReply,
    ToolStream,
    parse_tool_calls,
)


def call(name: str = "f", arguments: str = "{}") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def joined(events: list[ToolEvent]) -> ToolReply:
    """What a client has after these events; checks their order on the way."""
    text = malformed = ""
    names: list[str] = []
    arguments: list[str] = []
    is_open = False
    for event in events:
        if isinstance(event, TextDelta | MalformedCall):
            assert event.text and not is_open
            text += event.text
            malformed += event.text if isinstance(event, MalformedCall) else ""
        elif isinstance(event, CallBegin):
            assert event.index == len(names) and event.id == f"call_{event.index}" and not is_open
            names, arguments, is_open = [*names, event.name], [*arguments, ""], True
        elif isinstance(event, ArgumentsDelta):
            assert event.index == len(names) - 1 and is_open
            arguments[-1] += event.text
        else:
            assert event == CallEnd(len(names) - 1) and is_open
            is_open = False
    assert not is_open
    return ToolReply(text, tuple(map(ToolCall, names, arguments)), malformed)


def stream(pieces: list[str]) -> ToolReply:
    ids = count()
    reader = ToolStream(new_id=lambda: f"call_{next(ids)}")
    events = [event for piece in pieces for event in reader.push(piece)]
    return joined(events + reader.finish())


WHOLE = {
    "plain text": ("Hello\n", ToolReply("Hello\n", (), "")),
    "nothing": ("", ToolReply("", (), "")),
    "white space": (" \n ", ToolReply(" \n ", (), "")),
    "one call": (call(), ToolReply("", (ToolCall("f", "{}"),), "")),
    "raw arguments": (
        call("g", '{"x": 1.50, "y": [1e2, "ü\\u00e9"], "x": 2}'),
        ToolReply("", (ToolCall("g", '{"x": 1.50, "y": [1e2, "ü\\u00e9"], "x": 2}'),), ""),
    ),
    "arguments as text": (
        call("g", json.dumps('{"a": "b\\"c"}')),
        ToolReply("", (ToolCall("g", '{"a": "b\\"c"}'),), ""),
    ),
    "no arguments": (
        '<tool_call>{"name":"f"}</tool_call>',
        ToolReply("", (ToolCall("f", "{}"),), ""),
    ),
    "arguments first": (
        '<tool_call> {"arguments" : {"a":{}} , "name" : "f" } </tool_call>',
        ToolReply("", (ToolCall("f", '{"a":{}}'),), ""),
    ),
    "text before": (f"I look.\n{call()}", ToolReply("I look.", (ToolCall("f", "{}"),), "")),
    "text after": (f"\n{call()}\n Done.\n", ToolReply("Done.\n", (ToolCall("f", "{}"),), "")),
    "text around": (f"A\n{call()}\nB", ToolReply("A\n\nB", (ToolCall("f", "{}"),), "")),
    "two calls": (
        f"A \n{call('f')}\n{call('g')}\n",
        ToolReply("A", (ToolCall("f", "{}"), ToolCall("g", "{}")), ""),
    ),
    "glued": (call("f") + call("g"), ToolReply("", (ToolCall("f", "{}"), ToolCall("g", "{}")), "")),
    "close in a string": (
        call("f", '{"a": "</tool_call> \\" <tool_call>"}'),
        ToolReply("", (ToolCall("f", '{"a": "</tool_call> \\" <tool_call>"}'),), ""),
    ),
    "code fence": (
        f"```xml\n{call()}\n```",
        ToolReply("```xml\n\n```", (ToolCall("f", "{}"),), ""),
    ),
    "look-alikes": (
        "a < b <tool <tool_call <tool_call > </tool_call> <tools> <Tool_call> <<tool",
        ToolReply(
            "a < b <tool <tool_call <tool_call > </tool_call> <tools> <Tool_call> <<tool", (), ""
        ),
    ),
    "bare JSON": (
        '{"name": "f", "arguments": {}}',
        ToolReply('{"name": "f", "arguments": {}}', (), ""),
    ),
}
BROKEN = {
    "never closed": '<tool_call>\n{"name": "f", "arguments": {}}\n',
    "cut": '<tool_call>\n{"name": "f", "argu',
    "cut in its tag": '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_ca',
    "only a tag": "<tool_call>",
    "prose": "<tool_call> is a tag, and so is",
    "not JSON": "<tool_call>{'name': 'f'}</tool_call>",
    "one brace more": '<tool_call>{"name": "f", "arguments": {}}}</tool_call>',
    "one brace less": '<tool_call>{"name": "f", "arguments": {</tool_call>',
    "two objects": '<tool_call>{"name": "f"} {"name": "g"}</tool_call>',
    "a list": '<tool_call>[{"name": "f"}]</tool_call>',
    "no name": '<tool_call>{"arguments": {}}</tool_call>',
    "empty name": '<tool_call>{"name": "", "arguments": {}}</tool_call>',
    "name is no text": '<tool_call>{"name": 1, "arguments": {}}</tool_call>',
    "two names": '<tool_call>{"name": "f", "name": "g"}</tool_call>',
    "another key": '<tool_call>{"name": "f", "parameters": {}}</tool_call>',
    "arguments are a list": '<tool_call>{"name": "f", "arguments": []}</tool_call>',
    "arguments are null": '<tool_call>{"name": "f", "arguments": null}</tool_call>',
    "text in arguments is no object": '<tool_call>{"name": "f", "arguments": "a"}</tool_call>',
    "twice text": '<tool_call>{"name": "f", "arguments": "\\"{}\\""}</tool_call>',
    "NaN": '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
    "NaN in text": '<tool_call>{"name": "f", "arguments": "{\\"a\\": NaN}"}</tool_call>',
    "newline in a string": '<tool_call>{"name": "f\n"}</tool_call>',
    "lone surrogate": '<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>',
    "endless number": f'<tool_call>{{"name": "f", "arguments": {{"a": {"9" * 5000}}}}}</tool_call>',
    "deep": f'<tool_call>{{"name": "f", "arguments": {{"a": {"[" * 3000 + "]" * 3000}}}}}'
    "</tool_call>",
}
CORPUS = (
    *[text for text, _ in WHOLE.values()],
    *[text for text in BROKEN.values() if len(text) < 1000],
    *[f" x\n{text}\n {call()}\ty " for text in BROKEN.values() if len(text) < 1000],
    f'<tool_call>"<tool_call>{call()}"</tool_call>',
    f'<tool_call>{{"a": "</tool_call>{call()}\n"}}</tool_call>',
    f"<tool_call> oops\n{call()}",
    f"<tool_call><tool_call>{call('g')}</tool_call>",
)


@pytest.mark.parametrize("text,expected", WHOLE.values(), ids=WHOLE)
def test_what_a_reply_says(text: str, expected: ToolReply) -> None:
    assert parse_tool_calls(text) == expected == stream([text])


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_call_is_visible_and_flagged(text: str) -> None:
    assert parse_tool_calls(text) == ToolReply(text, (), text) == stream([text])


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_call_does_not_hide_the_next(text: str) -> None:
    if "</tool_call>" in text:
        whole = f"a {text} {call('g')}"
        assert parse_tool_calls(whole) == ToolReply(f"a {text}", (ToolCall("g", "{}"),), text)


@pytest.mark.parametrize("text", CORPUS)
def test_every_two_cuts_tell_the_whole(text: str) -> None:
    whole = parse_tool_calls(text)
    assert stream(list(text)) == whole
    step = 1 if len(text) < 100 else 3
    for a in range(0, len(text) + 1, step):
        for b in range(a, len(text) + 1, step):
            assert stream([text[:a], text[a:b], text[b:]]) == whole


FRAGMENTS = (
    *("<tool_call>", "</tool_call>", "<tool_call", "</", "<", "tool_call>", "{", "}", '"', "\\"),
    *('{"name": "f", "arguments": {', '"a": ', "1", "}}", "\n", " ", "Text", "```", "é", "[", "]"),
    *(call(), call("g", '{"s": "</tool_call>"}'), '"{}"', ",", ":", "null", "NaN"),
)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join), st.data())
@settings(max_examples=400, deadline=None)
def test_random_replies_in_random_pieces(text: str, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
    whole = parse_tool_calls(text)
    assert stream(pieces) == stream(list(text)) == whole
    kept = "".join(whole.text.split())
    assert whole.calls or kept == "".join(text.split()), "only calls leave the text"


@given(
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=5), st.none() | st.text() | st.integers(), max_size=4),
)
@settings(max_examples=50, deadline=None)
def test_what_a_template_writes_is_read_back(name: str, arguments: dict[str, object]) -> None:
    inner = json.dumps({"name": f"n{name}", "arguments": arguments}, ensure_ascii=False)
    reply = parse_tool_calls(f"<tool_call>\n{inner}\n</tool_call>")
    assert [(c.name, json.loads(c.arguments)) for c in reply.calls] == [(f"n{name}", arguments)]


def test_plain_text_is_told_at_once_and_a_call_when_it_is_whole() -> None:
    reader = ToolStream()
    assert reader.push("Hi <") == [TextDelta("Hi")]
    assert reader.push("b") == [TextDelta(" <b")]
    assert reader.push('<tool_call>{"name": "f", "arguments": {}}') == []
    begin, arguments, end = reader.push("</tool_call>")
    assert isinstance(begin, CallBegin) and begin.id.startswith("call_") and begin.name == "f"
    assert (arguments, end) == (ArgumentsDelta(0, "{}"), CallEnd(0))
    assert reader.finish() == []


def test_prose_about_the_tag_is_told_while_it_comes() -> None:
    reader = ToolStream()
    assert reader.push("<tool_call> is") == [MalformedCall("<tool_call> is")]
    assert reader.push(" a tag") == [MalformedCall(" a tag")]


def test_a_hostile_reply_takes_no_quadratic_time() -> None:
    for unit in ('<tool_call>"</tool_call>"', '<tool_call>{"\\"', '</tool_call>"', "<tool_call>{"):
        text = '<tool_call>{"' + unit * 20_000
        reader = ToolStream()
        events = [e for at in range(0, len(text), 50) for e in reader.push(text[at : at + 50])]
        assert joined(events + reader.finish()).text == text
