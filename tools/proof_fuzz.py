"""Mutated HTTP requests by the hundred thousand: the server lives, and the golden request is right.

    python tools/proof_fuzz.py --cases 1000000

A server over a tiny model runs in a process of its own; workers send it requests grown from valid
ones: JSON values put where they do not belong, bytes changed, heads and framing broken, connections
dropped. An answer other than 2xx, 4xx or 503, one that is no JSON, or a golden request that goes
wrong ends the run, and the case is written to a file. The seed is printed and repeats the run.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing as mp
import re
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

GOLDEN_EVERY = 500
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
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = mutate_value(rng, value)
    body = json.dumps(value).encode()
    while rng.random() < 0.3:
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


class Client:
    """A connection that is opened again when it is gone."""

    def __init__(self, port: int) -> None:
        self._port, self._sock, self._file = port, None, None

    def close(self) -> None:
        for one in (self._file, self._sock):
            if one is not None:
                one.close()
        self._sock = self._file = None

    def ask(self, data: bytes) -> tuple[int, bytes]:
        """Status and body. Raises OSError, ValueError for what is no answer."""
        if self._sock is None:
            self._sock = socket.create_connection(("127.0.0.1", self._port), timeout=30)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._file = self._sock.makefile("rb")
        self._sock.sendall(data)
        assert self._file is not None
        line = self._file.readline()
        if not line:
            raise ConnectionResetError("no answer")
        status, headers = int(line.split()[1]), {}
        while (line := self._file.readline().strip()) and b":" in line:
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        if headers.get(b"transfer-encoding") == b"chunked":
            body = b"".join(self._chunks())
        else:
            body = self._file.read(int(headers.get(b"content-length", b"0")))
        if headers.get(b"connection") == b"close":
            self.close()
        return status, body

    def _chunks(self) -> Any:
        while size := int(self._file.readline(), 16):
            yield self._file.read(size)
            self._file.readline()
        self._file.readline()

    def drop(self, data: bytes, rng: Random) -> int | None:
        """Sends broken framing on a connection of its own and leaves, mostly without listening."""
        address = ("127.0.0.1", self._port)
        with socket.create_connection(address, timeout=0.2) as sock, suppress(OSError):
            sock.sendall(data)
            if rng.random() < 0.5:
                sock.shutdown(socket.SHUT_WR)
                found = sock.recv(65536)
                return int(found.split()[1]) if found.startswith(b"HTTP/") else None
        return None


def check(status: int, body: bytes) -> str | None:
    """What is wrong with an answer."""
    if not (200 <= status < 300 or 400 <= status < 500 or status == 503):
        return f"status {status}"
    if body.startswith((b"data: ", b":")):
        return None if body.endswith(b"data: [DONE]\n\n") or b'"error"' in body else "a torn stream"
    try:
        value = json.loads(body)
    except ValueError:
        return "the body is no JSON"
    if status >= 400 and "\n" in value["error"]["message"]:
        return "an error of several lines"
    return None


def golden(client: Client, port: int) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "temperature": 0}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port
    for _ in range(2):
        try:
            status, found = client.ask(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            break
        except ConnectionResetError:  # it was idle for too long: a new connection
            client.close()
    assert status == 200, (status, found)
    assert json.loads(found)["choices"][0]["message"]["content"] == "Yes.", found


def work(port: int, seed: int, cases: int, told: Any) -> None:
    rng, client = Random(seed), Client(port)
    statuses: dict[int, int] = {}
    for number in range(cases):
        if number % GOLDEN_EVERY == 0:
            client.close()
            golden(client, port)
            told.put((GOLDEN_EVERY if number else 0, statuses, None))
            statuses = {}
        data, is_whole = make_case(rng, port)
        fault = None
        try:
            if is_whole:
                status, body = client.ask(data)
                fault = check(status, body)
            else:
                status = client.drop(data, rng) or 0
                fault = f"status {status}" if status >= 500 and status != 503 else None
        except (OSError, ValueError) as error:
            client.close()
            status, fault = 0, f"{type(error).__name__}: {error}"
        statuses[status] = statuses.get(status, 0) + 1
        if fault:
            Path(f"build/fuzz-{seed}-{number}.bin").write_bytes(data)
            told.put((0, statuses, f"{fault}: build/fuzz-{seed}-{number}.bin"))
            statuses = {}
    golden(Client(port), port)
    told.put((cases % GOLDEN_EVERY or GOLDEN_EVERY, statuses, "done"))


def serve(ready: Any) -> None:
    """A server over a tiny model, for ever."""
    from tests.server.live import live, says

    logging.disable(logging.WARNING)  # uvicorn tells of every broken head
    llm = says("Yes.")
    llm.backend.batches = deque(maxlen=1)  # it remembers all
    with live(llm, head_s=2, body_s=2) as server:
        ready.put(server.port)
        while True:
            time.sleep(60)


def rss(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    Path("build").mkdir(exist_ok=True)
    context = mp.get_context("spawn")
    ready, told = context.Queue(), context.Queue()
    server = context.Process(target=serve, args=(ready,), daemon=True)
    server.start()
    port, share = ready.get(timeout=60), args.cases // args.workers
    for i in range(args.workers):
        seed = args.seed * 10 + i
        context.Process(target=work, args=(port, seed, share, told), daemon=True).start()
    print(f"seed {args.seed}, {share * args.workers:,} cases", flush=True)
    begin = shown = time.monotonic()
    done, finished, faults, statuses = 0, 0, 0, dict[int, int]()
    sizes: list[int] = []
    while finished < args.workers:
        count, found, fault = told.get(timeout=300)
        done += count
        for status, times in found.items():
            statuses[status] = statuses.get(status, 0) + times
        if fault == "done":
            finished += 1
        elif fault:
            faults += 1
            print(fault, flush=True)
            assert faults < 20, "too many faults"
        assert server.is_alive(), "the server has ended"
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            sizes.append(rss(server.pid))
            rate = done / (shown - begin)
            print(f"{done:,} cases, {rate:,.0f} a second, {sizes[-1]} MB", flush=True)
    sizes.append(rss(server.pid))
    counts = ", ".join(f"{status or 'dropped'}: {n:,}" for status, n in sorted(statuses.items()))
    print(f"{share * args.workers:,} cases in {time.monotonic() - begin:,.0f} s; {counts}")
    print(f"memory {sizes[0]} MB at first, {sizes[-1]} MB at the end; {faults} faults")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
