"""Output tokens a second of a running OpenAI-compatible server: so many clients that stream.

    python benchmarks/clients.py http://127.0.0.1:8000 --clients 16

Works against any such server, so it races peers: start one, run this, stop it, start the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from itertools import pairwise
from statistics import median
from typing import Any
from urllib.parse import urlsplit


async def stream(host: str, port: int, body: dict[str, Any]) -> tuple[int, float, list[float]]:
    """Tokens by the server's own count, time to the first piece, gaps between pieces."""
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, port)
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    times, tokens = [], 0
    async for line in reader:
        if line.startswith(b"HTTP/1.1") and b" 200 " not in line:
            raise SystemExit(f"the server said {line.decode().strip()}")
        if line.startswith(b"data: {"):
            times.append(time.perf_counter())
            if b'"completion_tokens"' in line:  # reading every chunk would take the server's time
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    writer.close()
    gaps = [b - a for a, b in pairwise(times)]
    return tokens, times[0] - begin, gaps


def prompts(clients: int, tokens: int, turn: int) -> list[list[int]]:
    """Ids of a turn; no two prompts begin alike."""
    return [
        [1000 + (turn * 101 + c * 7919 + at * 31) % 90_000 for at in range(tokens)]
        for c in range(clients)
    ]


async def run(args: argparse.Namespace, turn: int) -> tuple[float, float, float]:
    """Output tokens a second, median time to the first piece, largest gap."""
    url = urlsplit(args.url)
    bodies = [
        {
            "prompt": prompt,
            "max_tokens": args.reply_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for prompt in prompts(args.clients, args.prompt_tokens, turn)
    ]
    begin = time.perf_counter()
    found = await asyncio.gather(*(stream(url.hostname or "", url.port or 80, b) for b in bodies))
    seconds = time.perf_counter() - begin
    tokens = sum(one[0] for one in found)
    assert tokens == args.clients * args.reply_tokens, f"{tokens} tokens came"
    return tokens / seconds, median(o[1] for o in found), max(max(o[2]) for o in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--reply-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rates = []
    for turn in range(args.rounds):
        rate, ttft, gap = asyncio.run(run(args, turn))
        rates.append(rate)
        print(f"{rate:7.1f} output tokens/s, first piece {ttft:.2f} s (median), gap {gap:.2f} s")
    print(f"median {median(rates):.1f} output tokens/s")


if __name__ == "__main__":
    main()
