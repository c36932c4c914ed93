"""Mutated HTTP requests by the hundred thousand: the server lives, and the golden request is right.

    python tools/proof_fuzz.py --cases 1000000

A server over a tiny model runs in a process of its own; workers send it the requests of
fuzz_cases.py and drop connections. An answer other than 2xx, 4xx or 503, one that is no JSON, a
connection closed without an answer, or no answer at all is a fault, and its case is written to a
file. The seed is printed and repeats the run. All processes may be stopped for minutes (SIGSTOP)
without a fault.
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
from queue import Empty
from random import Random
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from fuzz_cases import make_case  # noqa: E402

GOLDEN_EVERY = 500
HANG_S = 600
"""Without an answer for so long the server hangs; time in which all of us are stopped hardly
counts, for the main process waits in turns of TURN_S."""
TURN_S = 5
PAUSE_S = 1.0
"""After a pause the server may have closed a connection that was idle: that is no fault."""


class Client:
    """A connection that is opened again when it is gone."""

    def __init__(self, port: int) -> None:
        self._port, self._sock, self._file = port, None, None
        self._asked = 0.0

    def close(self) -> None:
        for one in (self._file, self._sock):
            if one is not None:
                one.close()
        self._sock = self._file = None

    def ask(self, data: bytes) -> tuple[int, bytes]:
        """Status and body. Raises OSError, ValueError for what is no answer."""
        is_used, before, self._asked = self._sock is not None, self._asked, time.monotonic()
        try:
            return self._ask(data)
        except ConnectionError:
            self.close()
            if not is_used or time.monotonic() - before < PAUSE_S:
                raise
            return self._ask(data)

    def _ask(self, data: bytes) -> tuple[int, bytes]:
        if self._sock is None:
            self._sock = socket.create_connection(("127.0.0.1", self._port), timeout=10 * HANG_S)
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
        with socket.create_connection(address, timeout=10 * HANG_S) as sock, suppress(OSError):
            sock.settimeout(0.2)
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
    data = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    begin = time.monotonic()
    status, found = client.ask(data)
    if status == 408 and time.monotonic() - begin > PAUSE_S:  # stopped before it could send
        status, found = client.ask(data)
    assert status == 200, (status, found)
    assert json.loads(found)["choices"][0]["message"]["content"] == "Yes.", found


def work(port: int, seed: int, cases: int, told: Any) -> None:
    try:
        send_cases(port, seed, cases, told)
    except Exception as error:  # a golden request went wrong: this worker's last word
        told.put((0, {}, f"golden: {type(error).__name__}: {error}"))
        told.put((0, {}, "done"))


def send_cases(port: int, seed: int, cases: int, told: Any) -> None:
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


def wait(told: Any) -> Any:
    """What a worker tells next. Raises TimeoutError."""
    for _ in range(HANG_S // TURN_S):
        with suppress(Empty):
            return told.get(timeout=TURN_S)
    raise TimeoutError("no worker has told anything: the server hangs")


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
    port, share = ready.get(timeout=HANG_S), -(-args.cases // args.workers)
    for i in range(args.workers):
        seed = args.seed * 10 + i
        context.Process(target=work, args=(port, seed, share, told), daemon=True).start()
    print(f"seed {args.seed}, {share * args.workers:,} cases", flush=True)
    begin = shown = time.monotonic()
    done, finished, faults, statuses = 0, 0, 0, dict[int, int]()
    sizes: list[int] = []
    while finished < args.workers:
        count, found, fault = wait(told)
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
            rate = max(done, 1) / (shown - begin)
            left = (share * args.workers - done) / rate / 60
            print(
                f"{done:,} cases, {rate:,.0f} a second, {sizes[-1]} MB, {faults} faults, "
                f"{left:.0f} min left",
                flush=True,
            )
    sizes.append(rss(server.pid))
    counts = ", ".join(f"{status or 'dropped'}: {n:,}" for status, n in sorted(statuses.items()))
    print(f"{share * args.workers:,} cases in {time.monotonic() - begin:,.0f} s; {counts}")
    print(f"memory {sizes[0]} MB at first, {sizes[-1]} MB at the end; {faults} faults")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
