"""Conversations with tools on the official models: forced calls fit their schemas, and whatever a
free model writes is told whole, streamed or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from qwell.engine.jobs import Limits
from qwell.engine.llm import LLM
from qwell.engine.load import load
from qwell.engine.memory import Room
from qwell.text.tools import parse_tool_calls
from tests.server.live import Live, live

pytestmark = [pytest.mark.slow, pytest.mark.weights]

CHAT = "/v1/chat/completions"


def tool(name: str, about: str, required: list[str], **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    about_it = {"name": name, "description": about, "parameters": parameters}
    return {"type": "function", "function": about_it}


TEXT = {"type": "string", "maxLength": 60}
TOOLS = [
    tool(
        "get_weather",
        "The weather in a city.",
        ["city"],
        city=TEXT,
        unit={"enum": ["celsius", "fahrenheit"]},
    ),
    tool(
        "add_event",
        "Puts an event into the calendar.",
        ["title", "date"],
        title=TEXT,
        date={"type": "string", "format": "date"},
        guests={"type": "array", "items": TEXT, "maxItems": 5},
    ),
    tool(
        "convert",
        "Converts money.",
        ["amount", "from", "to"],
        amount={"type": "number", "minimum": 0},
        **{"from": {"enum": ["EUR", "USD", "JPY"]}, "to": {"enum": ["EUR", "USD", "JPY"]}},
    ),
    tool(
        "search",
        "Searches the web.",
        ["query"],
        query=TEXT,
        limit={"type": "integer", "minimum": 1, "maximum": 20},
    ),
]
SCHEMAS = {one["function"]["name"]: one["function"]["parameters"] for one in TOOLS}
ASKED = [
    "What is the weather in Oslo?",
    "How warm is it in Paris, in fahrenheit?",
    "Put lunch with Ann into my calendar for 2026-12-01.",
    "Convert 20 EUR to USD.",
    "Search the web for the history of tea, three results.",
    "What is the weather in Rome and in Cairo?",
    "Convert 5 USD to JPY, then 7 EUR to JPY.",
    "Write a haiku about rain.",
    "Who are you?",
    'Search for "quotes \\" and {braces}".',
    "What's the weather in 東京?",
    "Add the event 'Review <tool_call> parser' on 2027-01-05 with Bo and Cy.",
    "Explain in two sentences what a tool call is, and show its JSON.",
    "Show me the text <tool_call> literally.",
    "What is 2 + 2?",
    "Is it raining in Lima? Search for umbrellas too.",
]


@pytest.fixture(scope="module")
def larger(official_gguf: Callable[[str], Path]) -> Iterator[LLM]:
    yield load(str(official_gguf("1.5b")), ctx=4096, room=Room(max_seqs=64))


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Live]:
    """Of the model whose fixture is named."""
    with live(request.getfixturevalue(request.param), limits=Limits(max_wait_s=600)) as found:
        yield found


async def ask(server: Live, path: str, body: dict[str, Any]) -> bytes:
    """The body of the reply, read to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    first, _, rest = (await reader.read(-1)).partition(b"\r\n\r\n")
    writer.close()
    assert b" 200 " in first.splitlines()[0], rest
    return rest


async def message(server: Live, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The message and its finish_reason. It is asked for whole and as a stream, whose deltas,
    joined, must say the same."""
    whole, stream = await asyncio.gather(
        ask(server, CHAT, body), ask(server, CHAT, {**body, "stream": True})
    )
    [choice] = json.loads(whole)["choices"]
    lines = [line[6:] for line in stream.split(b"\n\n") if line.startswith(b"data: {")]
    parts = [json.loads(line)["choices"][0] for line in lines]
    content = "".join(part["delta"].get("content") or "" for part in parts)
    assert content == (choice["message"]["content"] or "")
    calls: dict[int, list[str]] = {}
    for part in parts:
        for call in part["delta"].get("tool_calls", ()):
            one = calls.setdefault(call["index"], ["", ""])
            one[0] += call["function"].get("name", "")
            one[1] += call["function"].get("arguments", "")
    assert list(calls.values()) == [
        [call["function"]["name"], call["function"]["arguments"]]
        for call in choice["message"].get("tool_calls", ())
    ]
    assert parts[-1]["finish_reason"] == choice["finish_reason"]
    assert ("qwell" in parts[-1]) == ("qwell" in choice)
    return choice["message"], choice["finish_reason"]


async def forced(server: Live, question: str, choice: Any, *, parallel: bool) -> int:
    """How many calls came; all of them fit. A small model that may go on calls until its tokens
    are over; then the last call may be half a one, which is shown as text."""
    body = {"messages": [{"role": "user", "content": question}], "tools": TOOLS, "seed": 1}
    body |= {"tool_choice": choice, "max_tokens": 160, "temperature": 0}
    told, reason = await message(server, {**body, "parallel_tool_calls": parallel})
    assert told["tool_calls"] and (reason == "tool_calls" or (parallel and reason == "length"))
    assert reason == "length" or not (told["content"] or "").strip()
    for call in told["tool_calls"]:
        function = call["function"]
        jsonschema.validate(json.loads(function["arguments"]), SCHEMAS[function["name"]])
    return len(told["tool_calls"])


async def free(server: Live, question: str) -> tuple[int, str]:
    """Two turns. What the model wrote, raw, is the message: nothing is lost or added."""
    messages: list[Any] = [{"role": "user", "content": question}]
    how = {"max_tokens": 200, "temperature": 0}
    told, reason = await message(server, {"messages": messages, "tools": TOOLS, **how})
    shown = await ask(server, "/apply_template", {"messages": messages, "tools": TOOLS})
    ids = json.loads(shown)["tokens"]
    raw = json.loads(await ask(server, "/v1/completions", {"prompt": ids, **how}))
    text = raw["choices"][0]["text"]
    parsed = parse_tool_calls(text)
    calls = told.get("tool_calls", [])
    assert [(c.name, c.arguments) for c in parsed.calls] == [
        (c["function"]["name"], c["function"]["arguments"]) for c in calls
    ]
    if not calls:
        assert (told["content"] or "") == text
    assert text.count("<tool_call>") == len(calls) + (told["content"] or "").count("<tool_call>")
    if calls and reason == "tool_calls":
        messages.append({"role": "assistant", "content": told["content"], "tool_calls": calls})
        messages += [{"role": "tool", "tool_call_id": c["id"], "content": "21"} for c in calls]
        last, _ = await message(server, {"messages": messages, "tools": TOOLS, **how})
        assert last["content"] or last.get("tool_calls")
    return len(calls), reason


@pytest.mark.parametrize("server", ["real_llm", "larger"], indirect=True)
def test_forced_calls_fit_their_schemas(server: Live) -> None:
    async def all_of_them() -> list[int]:
        named = {"type": "function", "function": {"name": "search"}}
        work = [
            forced(server, question, "required", parallel=i % 4 == 3)
            for i, question in enumerate(ASKED)
        ]
        return await asyncio.gather(*work, forced(server, ASKED[0], named, parallel=False))

    calls = asyncio.run(all_of_them())
    print(f"{len(calls)} conversations, {sum(calls)} calls")
    assert min(calls) >= 1


@pytest.mark.parametrize("server", ["real_llm", "larger"], indirect=True)
def test_what_a_free_model_writes_is_told_whole(server: Live) -> None:
    async def all_of_them() -> list[tuple[int, str]]:
        return await asyncio.gather(*(free(server, question) for question in ASKED))

    found = asyncio.run(all_of_them())
    print(f"{len(found)} conversations, {sum(calls for calls, _ in found)} calls")
    assert len(found) == len(ASKED)
