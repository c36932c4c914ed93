"""The official 0.5B over HTTP: one answer in any crowd, warm or cold; waits and gaps of clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from tests.server.live import Live

pytestmark = [pytest.mark.slow, pytest.mark.weights]

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
Asked = tuple[str, dict[str, Any]]
WORDS = (
    "Write a haiku about rain.",
    "Name three rivers.",
    "What is 17 times 3?",
    "Explain recursion briefly.",
    "Translate 'good morning' into French.",
    "Sort the list [3, 1, 2] in Python.",
    "Who wrote Faust?",
    "Give a synonym of quick.",
    "What does HTTP stand for?",
    "Describe a cat in five words.",
)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string", "maxLength": 20}},
            "required": ["word"],
            "additionalProperties": False,
        },
    },
}


def requests(count: int) -> list[Asked]:
    """Chats and texts, greedy and seeded, with log-probabilities, schemas, tools, echo, n; many
    begin alike."""
    rng, found = Random(4), list[Asked]()
    for i in range(count):
        greedy = rng.random() < 0.5
        how: dict[str, Any] = {"temperature": 0} if greedy else {"temperature": 0.9, "seed": i}
        how["max_tokens"] = rng.choice((1, 12, 30))
        messages = [
            {"role": "system", "content": rng.choice(("Be brief.", "You are a poet. " * 12))},
            {"role": "user", "content": rng.choice(WORDS)},
        ]
        kind = i % 8
        if kind < 3:
            found.append((CHAT, {"messages": messages, "top_k": rng.choice((0, 20)), **how}))
        elif kind == 3:
            more = {"logprobs": True, "top_logprobs": 3, "n": 2}
            found.append((CHAT, {"messages": messages, **how, **more}))
        elif kind == 4:
            form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
            found.append((CHAT, {"messages": messages, **how, "response_format": form}))
        elif kind == 5:
            forced = {"tools": [TOOL], "tool_choice": "required"}
            found.append((CHAT, {"messages": messages, **how, **forced}))
        elif kind == 6:
            prompt = "def fib(n):\n    " * rng.choice((1, 15))
            found.append((TEXT, {"prompt": prompt, "echo": True, "logprobs": 2, **how}))
        else:
            ids = [rng.randrange(150_000) for _ in range(rng.choice((1, 63, 64, 65, 300)))]
            found.append((TEXT, {"prompt": [ids, ids[:40]], "frequency_penalty": 0.4, **how}))
    return found


def lasting(body: Any) -> Any:
    """Without what may differ from run to run: names, times, what the cache had."""
    if isinstance(body, list):
        return [lasting(one) for one in body]
    if not isinstance(body, dict):
        return body
    return {k: lasting(v) for k, v in body.items() if k not in ("id", "created", "cached_tokens")}


async def post(server: Live, asked: Asked) -> Any:
    """The body of one reply, on a connection of its own."""
    path, body = asked
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    whole = await reader.read(-1)
    writer.close()
    first, _, rest = whole.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200"), whole
    return lasting(json.loads(rest))


async def crowd(server: Live, asked: Sequence[Asked], order: Sequence[int]) -> dict[int, Any]:
    found = await asyncio.gather(*(post(server, asked[i]) for i in order))
    return dict(zip(order, found, strict=True))


def test_a_crowd_of_64_gets_what_each_gets_alone(real: Live) -> None:
    asked, cache = requests(64), real.app.served.llm.engine.cache
    alone = {}
    for i, one in enumerate(asked):
        cache.clear()  # nothing runs: the service's thread waits
        alone[i] = asyncio.run(post(real, one))
    for seed in range(3):
        if seed != 1:  # the second crowd finds what the first one left
            cache.clear()
        order = list(range(64))
        Random(seed).shuffle(order)
        together = asyncio.run(crowd(real, asked, order))
        for i in order:
            assert together[i] == alone[i], (seed, asked[i])
    found = real.app.served.service.snapshot()
    assert found.cache_hit_tokens > 1000
    assert sum(found.batch_replies.counts[6:]) > 0, "never were more than 16 in a step"


def chat_of(turns: list[str]) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]


def test_warm_turns_equal_cold_ones_and_begin_soon(real: Live) -> None:
    """A conversation of about 2,000 tokens goes on for three turns: replies come back as prompts,
    with everything told, log-probabilities included."""
    cache = real.app.served.llm.engine.cache
    text = " ".join(f"Line {i}: {WORDS[i * 7 % 10]}" for i in range(160))
    turns = [f"{text}\nSum this up in one sentence."]
    how = {"temperature": 0, "max_tokens": 40, "logprobs": True, "top_logprobs": 2}
    for number in range(3):
        body = {"messages": chat_of(turns), **how}
        warm, warm_s = first_token(real, body)
        cache.clear()
        cold, cold_s = first_token(real, body)
        assert lasting(warm) == lasting(cold)
        prompt, used = warm[-1]["usage"]["prompt_tokens"], cached(warm)
        assert cached(cold) == 0
        if number:
            print(f"{prompt} tokens, {used} cached: {warm_s:.3f} s warm, {cold_s:.3f} s cold")
            assert used >= prompt - 40 - 2 * 64 and warm_s <= 0.15 * cold_s
        reply = "".join(c["choices"][0]["delta"].get("content", "") for c in cold if c["choices"])
        turns += [reply, f"Again, in other words ({number})."]


def first_token(server: Live, body: dict[str, Any]) -> tuple[list[Any], float]:
    """The chunks of a stream, and seconds to the first with text."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    begin, found, first = time.perf_counter(), list[Any](), 0.0
    with server.http.stream("POST", CHAT, json={**body, **options}) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                found.append(json.loads(line[6:]))
                choices = found[-1]["choices"]
                if not first and choices and choices[0]["delta"].get("content"):
                    first = time.perf_counter() - begin
    return [drop_ids(chunk) for chunk in found], first


def drop_ids(chunk: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chunk.items() if name not in ("id", "created")}


def cached(chunks: list[Any]) -> int:
    return int(chunks[-1]["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_a_long_prompt_holds_up_nobody(real: Live) -> None:
    """Three streams, a prompt of 8,000 tokens, and short requests beside it, as clients feel it."""
    waits, gaps = asyncio.run(beside_a_long_prompt(real))
    print(f"first tokens {[round(w, 3) for w in waits]} s, largest gap {max(gaps):.3f} s")
    assert len(waits) >= 3 and max(waits) <= 0.6 and max(gaps) <= 0.3
    rows = dict(metrics(real))
    for name in ("ttft", "gap"):
        assert rows[f"qwell_{name}_seconds_count"] > 0
    assert rows['qwell_gap_seconds_bucket{le="0.3"}'] == rows["qwell_gap_seconds_count"]


def metrics(server: Live) -> Iterator[tuple[str, float]]:
    for line in server.http.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            yield name, float(value)


async def beside_a_long_prompt(server: Live) -> tuple[list[float], list[float]]:
    def body(start: int, prompt: int, reply: int) -> dict[str, Any]:
        ids = [1000 + (start * 7919 + at * 31) % 90_000 for at in range(prompt)]
        more = {"temperature": 0, "ignore_eos": True, "stream": True}
        return {"prompt": ids, "max_tokens": reply, **more}

    streams = [asyncio.create_task(times(server, body(i, 30, 1500))) for i in range(3)]
    await asyncio.sleep(1)
    begin = time.perf_counter()
    long = asyncio.create_task(times(server, body(50, 8000, 1)))
    waits = []
    await asyncio.sleep(0.2)
    while not long.done():
        asked = time.perf_counter()
        waits.append((await times(server, body(100 + len(waits), 20, 1)))[0] - asked)
        await asyncio.sleep(0.5)
    end = (await long)[0]
    gaps = []
    for stream in streams:
        seen = [at for at in await stream if begin <= at <= end]
        gaps += [b - a for a, b in pairwise([begin, *seen])]
    return waits[:-1], gaps


async def times(server: Live, body: dict[str, Any]) -> list[float]:
    """When each piece came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    data = json.dumps(body).encode()
    head = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    found = [time.perf_counter() async for line in reader if line.startswith(b"data: {")]
    writer.close()
    return found


def test_a_coder_model_fills_the_middle(real: Live) -> None:
    body = {"prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(2, 3))\n"}
    reply = real.post(TEXT, {**body, "max_tokens": 20, "temperature": 0}).json()
    [choice] = reply["choices"]
    assert choice["text"].strip() == "a + b" and choice["finish_reason"] == "stop"
