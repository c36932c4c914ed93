"""A real server under load for long: `overload` or `lives`. Long; run by hand.

    python tools/proof_serve.py overload --model qwen2.5-coder:0.5b --seconds 300
    python tools/proof_serve.py lives --model qwen2.5-coder:0.5b --requests 10000

overload: ten times what the server can do. Refusals say when to come again, what was accepted
finishes whole, memory stays, and the first request after the flood is answered soon.
lives: requests that end, are cancelled, time out or hang up. No page, thread, descriptor or memory
is lost, and memory stays below what the server said at its start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

PORT = 8765


async def ask(body: dict[str, Any], *, leave_after: float | None = None) -> tuple[int, Any, float]:
    """Status, seconds, and between them: tokens of the reply, seconds of Retry-After of a refusal,
    or the text of any other answer. Leaves early if told to: then the status is 0."""
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    try:
        data = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nConnection: close\r\n"
        writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        async with asyncio.timeout(leave_after or 300):
            found = await reader.read(-1)
    except TimeoutError:
        return 0, None, time.perf_counter() - begin
    finally:
        writer.close()
    head_bytes, _, rest = found.partition(b"\r\n\r\n")
    status = int(head_bytes.split()[1])
    if status != 200:
        after = re.search(rb"(?i)retry-after: (\d+)", head_bytes)
        told = int(after[1]) if after else rest.decode("utf-8", "replace")
        return status, told, time.perf_counter() - begin
    counts = re.findall(rb'"completion_tokens":(\d+)', rest)
    return status, int(counts[-1]) if counts else None, time.perf_counter() - begin


def body_of(number: int, prompt: int, reply: int, **more: Any) -> dict[str, Any]:
    ids = [1000 + (number * 7919 + at * 31) % 90_000 for at in range(prompt)]
    return {
        "prompt": ids,
        "max_tokens": reply,
        "temperature": 0,
        "ignore_eos": True,
        **more,
    }


class Server:
    def __init__(self, model: str, *options: str) -> None:
        command = [sys.executable, "-m", "qwell", "serve", model, "--port", str(PORT), *options]
        self._log = Path("build") / f"proof-serve-{PORT}.log"
        self._log.parent.mkdir(exist_ok=True)
        with self._log.open("w") as out:
            self.process = subprocess.Popen(command, stderr=out)

    def budget(self) -> int:
        """KB that it said it takes at most."""
        told = re.search(r"memory +at most ([\d.]+) GB", self._log.read_text())
        assert told, "the report has no line about memory"
        return int(float(told[1]) * 1e6)

    async def ready(self) -> None:
        for _ in range(600):
            try:
                await self.metrics()
                return
            except OSError:
                await asyncio.sleep(0.2)
            if self.process.poll() is not None:
                break
        raise SystemExit(f"the server does not start: {self._log.read_text().strip()}")

    async def metrics(self) -> dict[str, float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        writer.write(f"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1:{PORT}\r\n\r\n".encode())
        text = (await reader.read(-1)).decode()
        writer.close()
        rows = re.findall(r"^(qwell_\S+) ([-\d.e+]+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in rows}

    def facts(self) -> dict[str, int]:
        """Memory in KB, threads, descriptors."""
        folder = Path(f"/proc/{self.process.pid}")
        status = (folder / "status").read_text()
        found = {n: int(re.search(rf"{n}:\s+(\d+)", status)[1]) for n in ("VmRSS", "Threads")}
        return found | {"descriptors": len(list((folder / "fd").iterdir()))}

    def mappings(self) -> Counter[str]:
        """KB in memory by mapping: its file or kind, else its address and its size in KB."""
        found, name = Counter[str](), ""
        for line in Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ *(.*)", line):
                size = (int(head[2], 16) - int(head[1], 16)) // 1024
                name = head[3] or f"{head[1]} of {size:,}"
            elif line.startswith("Rss:"):
                found[name] += int(line.split()[1])
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


async def overload(args: argparse.Namespace) -> bool:
    server = Server(args.model, "--max-wait", "4", "--kv-budget", "256MB", "--ctx", "4096")
    await server.ready()
    begin, tasks = time.perf_counter(), 48
    await asyncio.gather(*(ask(body_of(i, 64, 16)) for i in range(tasks)))
    capacity = tasks / (time.perf_counter() - begin)
    rate = 10 * capacity
    print(f"{capacity:.1f} requests a second are its capacity; {rate:.0f} will come", flush=True)
    found: list[tuple[int, Any, float]] = []
    running: set[asyncio.Task[Any]] = set()
    begin, number, sizes = time.perf_counter(), 1000, list[int]()
    while (now := time.perf_counter() - begin) < args.seconds:
        while number - 1000 < now * rate:
            task = asyncio.create_task(ask(body_of(number, 64, 16)))
            running.add(task)
            task.add_done_callback(lambda t: (running.discard(t), found.append(t.result())))
            number += 1
        if now > (len(sizes) + 1) * args.seconds / 10:
            sizes.append(server.facts()["VmRSS"])
            print(f"{now:4.0f} s {sizes[-1] // 1024} MB, {Counter(s for s, _, _ in found)}")
        await asyncio.sleep(0.005)
    status, _, seconds = await ask(body_of(1, 64, 16))
    while status in (429, 503) and seconds < 5:
        await asyncio.sleep(0.2)
        again, _, more = await ask(body_of(1, 64, 16))
        status, seconds = again, seconds + 0.2 + more
    if running:
        await asyncio.wait(running)
    counts = Counter(status for status, _, _ in found)
    whole = all(tokens == 16 for status, tokens, _ in found if status == 200)
    told = all(isinstance(after, int) for status, after, _ in found if status in (429, 503))
    slow = max((s for status, _, s in found if status == 200), default=0)
    growth = sizes[-1] / sizes[1] - 1
    print(
        f"{len(found):,} requests: {dict(counts)}; accepted finish whole: {whole}, "
        f"slowest {slow:.1f} s"
    )
    print(f"refusals with Retry-After: {told}; memory {growth:+.1%} from the second tenth on")
    print(f"first request after it answered in {seconds:.2f} s with {status}")
    fine = whole and told and set(counts) <= {200, 429, 503} and abs(growth) < 0.02
    return server.stop() == 0 and fine and status == 200 and seconds <= 5


async def live_one(rng: Random, number: int, ends: Counter[str]) -> None:
    """A request of random length that streams or not, ends, is late or hangs up."""
    reply, kind = rng.randint(1, 12), rng.random()
    body = body_of(rng.randrange(400), rng.choice((5, 70, 150)), reply)
    body |= {"stream": rng.random() < 0.5, "n": rng.choice((1, 1, 1, 2))}
    if kind < 0.1:
        body |= {"max_tokens": 400, "qwell": {"deadline_s": 0.001 + rng.random()}}
    leave = rng.random() * 0.6 if kind > 0.8 else None
    if leave:
        body["max_tokens"] = 300
    status, told, _ = await ask(body, leave_after=leave)
    while status in (429, 503):  # what a client should do
        ends["refused"] += 1
        await asyncio.sleep(told)
        status, told, _ = await ask(body, leave_after=leave)
    ends[str(status) if status else "left"] += 1
    if status not in (0, 200):
        print(f"{number:6,} {status} {told}; {body | {'prompt': len(body['prompt'])}}", flush=True)


async def lives(args: argparse.Namespace) -> bool:
    server, rng = Server(args.model, "--kv-budget", "256MB", "--ctx", "4096"), Random(3)
    await server.ready()
    ends: Counter[str] = Counter()
    gate = asyncio.Semaphore(24)
    tenth = args.requests // 10

    async def one(number: int) -> None:
        async with gate:
            await live_one(rng, number, ends)
        if number in (tenth, args.requests - 1) or number % 1000 == 0:
            print(f"{number:6,} {server.facts()} {dict(ends)}", flush=True)

    tasks: set[asyncio.Task[None]] = set()
    begin, mappings, threads = server.facts(), server.mappings(), 0
    for number in range(args.requests):
        task = asyncio.create_task(one(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        while len(tasks) > 48:
            await asyncio.sleep(0.01)
        if number <= tenth and number % 50 == 0:
            begin, mappings = server.facts(), server.mappings()
            threads = max(threads, begin["Threads"])  # of a pool that is idle or busy
    await asyncio.gather(*tasks)
    for _ in range(100):
        end = await server.metrics()
        if not end["qwell_running"] and not end["qwell_queued"]:
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(20)  # idle connections and threads end
    last, grown = server.facts(), server.mappings() - mappings
    growth = last["VmRSS"] / begin["VmRSS"] - 1
    print(f"{args.requests:,} requests: {dict(ends)}; {end['qwell_pages_used']:.0f} pages held")
    print(f"at a tenth {begin}, {threads} threads at most until then")
    print(f"at the end {last}: memory {growth:+.2%}; KB grown {dict(grown.most_common(4))}")
    print(
        f"memory at most {server.budget() // 1000} MB by its report, {last['VmRSS'] // 1000} used"
    )
    fine = end["qwell_pages_used"] == 0 and growth < 0.02 and last["VmRSS"] < server.budget()
    fine &= last["Threads"] <= threads and last["descriptors"] <= begin["descriptors"]
    fine &= set(ends) <= {"200", "left", "refused"}
    return server.stop() == 0 and fine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("proof", choices=("overload", "lives"))
    parser.add_argument("--model", default="qwen2.5-coder:0.5b")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--requests", type=int, default=10_000)
    args = parser.parse_args()
    fine = asyncio.run({"overload": overload, "lives": lives}[args.proof](args))
    print("proved" if fine else "NOT proved")
    sys.exit(not fine)


if __name__ == "__main__":
    main()
