"""`qwell serve` as a process of its own: how it starts, and how it ends by signals."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

import qwell
from qwell.hub import packs
from tests.cli.tiny import write_model

Start = Callable[..., "Running"]


class Running:
    """A server that tells what it does on stderr."""

    def __init__(self, model: Path, *options: str, env: dict[str, str] | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "qwell", "serve", str(model), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, *options],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (env or {}),
        )
        self.told: list[str] = []
        self._open: list[http.client.HTTPConnection] = []

    def ready(self) -> None:
        """Reads the report to its last line."""
        err = self.process.stderr
        assert err is not None
        for line in err:
            self.told.append(line)
            if line.lstrip().startswith("prompts"):
                break
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                if self.get("/ready")[0] == 200:
                    return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(self.told)

    def ask(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        self._open.append(connection)
        connection.request(method, path, body and json.dumps(body))
        return connection.getresponse()

    def get(self, path: str) -> tuple[int, Any]:
        reply = self.ask("GET", path)
        return reply.status, json.loads(reply.read())

    def stream(self, tokens: int) -> http.client.HTTPResponse:
        """A reply of so many tokens that has begun."""
        body = {"prompt": "a", "max_tokens": tokens, "ignore_eos": True, "stream": True}
        reply = self.ask("POST", "/v1/completions", body)
        assert reply.status == 200
        reply.readline()
        return reply

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        return self.process.wait(30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for connection in self._open:
            connection.close()
        if self.process.stderr:
            self.process.stderr.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QWELL_HOME", str(folder))
        patch.setenv("QWELL_OFFLINE", "1")
        yield folder


@pytest.fixture(scope="module")
def model(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("models") / "tiny", max_position_embeddings=32_768)
    qwell.load(str(folder))  # packs it
    return folder


@pytest.fixture
def start(model: Path) -> Iterator[Start]:
    made: list[Running] = []

    def new(*options: str) -> Running:
        made.append(Running(model, *options))
        made[-1].ready()
        return made[-1]

    yield new
    for one in made:
        one.close()


def events(reply: IO[bytes] | http.client.HTTPResponse) -> list[Any]:
    lines = [line.strip() for line in reply if line.startswith(b"data: ")]
    return [None if line == b"data: [DONE]" else json.loads(line[6:]) for line in lines]


def test_a_start_tells_what_it_takes_and_what_is_enforced(start: Start) -> None:
    told = "".join(start("--kv-budget", "64MB", "--max-queue", "7", "--ctx", "4096").told)
    for text in (
        "context      4,096 tokens",
        "memory       at most 0.",
        "tokens/s",
        "GB/s",
        "queue        7 requests",
        "body 8 MiB",
        "none: this machine alone",
        "not logged",
    ):
        assert text in told, told


def test_a_budget_that_was_asked_for_is_taken_at_the_start(start: Start) -> None:
    resident = []
    for options in (("--kv-budget", "300MB"), ()):
        server = start(*options, "--ctx", "4096")
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        resident.append(int(status.partition("VmRSS:")[2].split()[0]) * 1024)
        assert ("taken now" if options else "taken as they are used") in "".join(server.told)
    assert resident[0] - resident[1] > 290e6


def test_sigterm_lets_running_replies_end(start: Start) -> None:
    """Not ready at once, new requests refused, the running one whole, exit code 0."""
    server = start()
    reply = server.stream(3000)
    server.signal(signal.SIGTERM)
    wait_until_not_ready(server)
    status, body = server.get("/ready")
    assert status == 503 and body["error"]["code"] == "draining"
    assert server.get("/health")[0] == 200
    refused = server.ask("POST", "/v1/completions", {"prompt": "a"})
    assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
    refused.read()
    told = events(reply)
    assert told[-1] is None
    assert told[-2]["choices"][0]["finish_reason"] == "length"
    assert server.end() == 0


def test_nothing_is_left_to_complain_of(start: Start) -> None:
    server = start()
    server.stream(3).read()
    server.signal(signal.SIGINT)
    assert server.end() == 0
    assert server.process.stderr and "leak" not in server.process.stderr.read()


def test_a_log_that_nobody_reads_stops_nothing(start: Start) -> None:
    """It filled a pipe of the usual size after 465 answers; then the loop stood still for good."""
    server = start()
    err = server.process.stderr
    assert err is not None
    fcntl.fcntl(err, fcntl.F_SETPIPE_SZ, 4096)
    for _ in range(60):
        reply = server.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1})
        assert reply.status == 200
        reply.read()
    server.signal(signal.SIGTERM)
    assert server.end() == 0
    assert err.readline().endswith(" s\n")  # the first lines are there


def wait_until_not_ready(server: Running) -> None:
    end = time.monotonic() + 2
    while server.get("/ready")[0] == 200:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_what_outlives_its_grace_is_told_so(start: Start) -> None:
    server = start("--grace", "0.3")
    reply = server.stream(30_000)
    begin = time.monotonic()
    server.signal(signal.SIGTERM)
    told = events(reply)
    assert told[-1] is None and told[-2]["error"]["code"] == "draining"
    assert server.end() == 0
    assert time.monotonic() - begin < 10


@pytest.mark.slow
def test_a_second_signal_ends_it_now(start: Start) -> None:
    server = start("--grace", "60")
    reply = server.stream(30_000)
    server.signal(signal.SIGTERM)
    wait_until_not_ready(server)
    begin = time.monotonic()
    server.signal(signal.SIGTERM)
    server.end()
    assert time.monotonic() - begin < 8
    reply.close()


def test_an_idle_server_ends_at_once(start: Start) -> None:
    server = start()
    begin = time.monotonic()
    server.signal(signal.SIGINT)
    assert server.end() == 0
    assert time.monotonic() - begin < 5


def test_a_killed_server_leaves_nothing_broken(start: Start, home: Path) -> None:
    """Killed while it writes a reply: what it had on disk is as before, the next one serves."""
    before = snapshot(home)
    server = start()
    reply = server.stream(30_000)
    server.signal(signal.SIGKILL)
    assert server.end() == -signal.SIGKILL
    reply.close()
    assert snapshot(home) == before
    assert start().get("/health")[0] == 200


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.25, 0.5, 0.8, 1.2])
def test_a_server_killed_at_its_first_start_leaves_nothing_broken(
    after_s: float, tmp_path: Path
) -> None:
    """Killed at some time of packing: the next start packs, and no half pack is taken for one."""
    folder = write_model(tmp_path / "model", num_hidden_layers=6)
    home = {"QWELL_HOME": str(tmp_path / "home")}
    first = Running(folder, env=home)
    time.sleep(after_s)
    first.signal(signal.SIGKILL)
    first.end()
    first.close()
    second = Running(folder, env=home)
    try:
        second.ready()
        second.signal(signal.SIGTERM)
        assert second.end() == 0
    finally:
        second.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QWELL_HOME", home["QWELL_HOME"])
        found = [path for path in packs.packed_dir().iterdir() if path.is_dir()]
    assert len(found) == 1, found
