"""Requests grown from valid ones: what proof_fuzz.py sends. Pure: bytes from a seeded generator.

JSON values are put where they do not belong, fields that are fine alone are joined, bytes changed,
heads and framing broken.
"""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
HI = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SEEDS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 2, "seed": 1, "stop": ["x"]}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 2, "stream": True, "n": 2}),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 1, "tools": [TOOL]}),
    (
        "/v1/chat/completions",
        {
            "messages": [
                *HI,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "3", "tool_call_id": "1"},
            ],
            "max_tokens": 1,
            "tool_choice": "auto",
            "tools": [TOOL],
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": HI,
            "max_tokens": 2,
            "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        },
    ),
    ("/v1/chat/completions", {"messages": HI, "max_tokens": 1, "logprobs": True, "top_k": 3}),
    ("/v1/completions", {"prompt": "once", "max_tokens": 2, "logprobs": 1, "echo": True}),
    ("/v1/completions", {"prompt": [[1, 2], [3]], "max_tokens": 1, "stream": True}),
    ("/v1/completions", {"prompt": "a", "suffix": "b", "max_tokens": 1, "logit_bias": {"5": 1}}),
    ("/v1/completions", {"prompt": "a", "max_tokens": 1, "structured_outputs": {"regex": "a+"}}),
    ("/tokenize", {"prompt": "some text"}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
    ("/apply_template", {"messages": HI, "tools": [TOOL]}),
]
ODD: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**63, -(2**64), 1e308, 0.5, "", "a", "\ud800", "\x00"),
    *("<|im_end|>", "é" * 50, [], {}, [[]], {"": {}}, [None], {"type": "function"}, HI, TOOL),
    *(SCHEMA, {"$ref": "#"}, {"role": "user"}, "(a{99}){99}", [0] * 300, {"a": [{"b": [1]}]}),
]
BYTES = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\x00", b"\xff", b"\n", b"e9", b"null"]
BREAKS = [
    (rb"HTTP/1.1", b"HTTP/1.0"),
    (rb"HTTP/1.1", b"HTTP/3"),
    (rb"POST", b"P\x00ST"),
    (rb"POST", b"PUT"),
    (rb"Host: [^\r]*", b"Host: evil.example"),
    (rb"Host: [^\r]*\r\n", b""),
    (rb"Content-Length: \d+", b"Content-Length: 1"),
    (rb"Content-Length: \d+", b"Content-Length: -7"),
    (rb"Content-Length: \d+", b"Content-Length: 99999999999999999999"),
    (rb"Content-Length: \d+", b"Transfer-Encoding: chunked"),
    (rb"Content-Type: [^\r]*", b"Content-Type: text/plain; charset=utf-16"),
    (rb"\r\n\r\n", b"\r\nOrigin: null\r\n\r\n"),
    (rb"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"),
    (rb"\r\n\r\n", b"\r\nX: " + b"y" * 40_000 + b"\r\n\r\n"),
    (rb"\r\n", b"\n"),
    (rb" /[a-z_/1]*", b" /%00/../v1/models?x=%ff"),
]


FIELDS: dict[str, list[Any]] = {
    "temperature": [0, 0.7, 2],
    "top_p": [0, 0.5, 1],
    "top_k": [-1, 0, 1, 1000],
    "min_p": [0, 0.1, 1],
    "repetition_penalty": [0.01, 1.1, 100],
    "presence_penalty": [-2, 2],
    "frequency_penalty": [-2, 2],
    "logit_bias": [{}, {"5": 100, "6": -100}, {"264": -100}, {"999999999": 1}],
    "stop": ["Y", ["s", "es.", "\n"], ["é" * 1024]],
    "stop_token_ids": [[], [264], [0, 1, 2]],
    "min_tokens": [0, 3],
    "ignore_eos": [True],
    "n": [1, 2, 5],
    "seed": [0, -1, 2**63 - 1],
    "stream": [True, False],
    "stream_options": [{"include_usage": True}],
    "max_tokens": [0, 1, 3, 9],
    "max_completion_tokens": [1, 4],
    "logprobs": [0, 1, True, False],
    "top_logprobs": [0, 3],
    "echo": [True],
    "suffix": ["", "end"],
    "best_of": [1, 2],
    "tool_choice": ["auto", "none", "required", {"type": "function", "function": {"name": "f"}}],
    "parallel_tool_calls": [False],
    "response_format": [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}},
    ],
    "structured_outputs": [
        *({"choice": ["a", "bc"]}, {"regex": "[0-9]{1,3}"}, {"json": SCHEMA}),
        {"grammar": 'start: "a" | "b"'},
    ],
    "chat_template_kwargs": [{}, {"x": 1}],
    "qwell": [{"truth": True}, {"deadline_s": 0.001}, {"priority": -5}, {"allow_special": True}],
    "user": ["u"],
    "metadata": [{"a": "b"}],
}
"""Values that are fine alone: joined, they reach what one wrong value never does."""


def mutate_value(rng: Random, value: Any) -> Any:
    """A copy with one place changed."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        changed = {**value, name: mutate_value(rng, value[name])}
        if rng.random() < 0.1:
            changed[rng.choice(("x", "", "n", "stream", "seed"))] = changed.pop(name)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], mutate_value(rng, value[at]), *value[at + rng.randint(0, 2) :]]
    return rng.choice(ODD)


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    how = rng.randrange(4)
    if how == 0:
        return data[:at] + data[min(to, at + 8) :]
    if how == 1:
        return data[:at] + rng.choice(BYTES) * rng.choice((1, 1, 2, 60)) + data[at:]
    if how == 2:
        return data[:to] + data[at:to] + data[to:]
    return data[:at] + rng.randbytes(min(to - at, 4)) + data[min(to, at + 4) :]


def make_case(rng: Random, port: int) -> tuple[bytes, bool]:
    """A request, and whether its framing is whole."""
    path, value = rng.choice(SEEDS)
    is_mild = rng.random() < 0.4 and path.startswith("/v1/")
    if is_mild:
        names = rng.sample(list(FIELDS), rng.randint(1, 4))
        value = {**value, **{name: rng.choice(FIELDS[name]) for name in names}}
    for _ in range(rng.choice((0, 0, 0, 1)) if is_mild else rng.choice((1, 1, 2, 3))):
        value = mutate_value(rng, value)
    body = json.dumps(value).encode()
    while rng.random() < (0.05 if is_mild else 0.3):
        body = mutate_bytes(rng, body)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    data = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    kind = rng.random()
    if kind < 0.04:
        return re.sub(*rng.choice(BREAKS), data, count=1), False
    if kind < 0.07:
        return mutate_bytes(rng, data), False
    if kind < 0.09:
        return data[: rng.randrange(len(data))], False
    return data, True
