"""A server from start to end: what it tells when it starts, and how it stops.

The first SIGTERM or Ctrl-C makes it not ready at once; new requests are refused, running ones have
their grace, then the process ends with 0. A second one ends it now.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from types import FrameType

import uvicorn

from qwell.engine.llm import LLM
from qwell.engine.memory import WORK_BYTES, available_bytes
from qwell.errors import UsageError
from qwell.server.app import App
from qwell.server.protocol import protocol_for
from qwell.server.settings import Settings

_BACKLOG = 1024
"""Connections not accepted yet; longer than the limit, so that one too many hears that it is."""
_CLOSING_S = 5
"""For the last bytes of replies that were ended."""


class Server(uvicorn.Server):
    """uvicorn's server with an end that leaves nothing half told."""

    def __init__(self, app: App, sock: socket.socket, note: Callable[[str], None]) -> None:
        settings = app.settings
        super().__init__(
            uvicorn.Config(
                app.asgi,
                http=protocol_for(settings),
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=settings.max_head,
                timeout_keep_alive=int(settings.keep_alive_s),
                timeout_graceful_shutdown=_CLOSING_S,
                backlog=_BACKLOG,
            )
        )
        self._app, self._socket, self._note = app, sock, note
        self._end: float | None = None

    def run_here(self) -> None:
        """Until told to stop."""
        self.run(sockets=[self._socket])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # Not kept for uvicorn to raise again: a stop that was asked for is no failure.
        if self._end is not None:
            self.should_exit = self.force_exit = True
            return
        self._end = monotonic() + self._app.settings.grace_s
        self._app.drain()
        self._note(f"stopping: running replies have {self._app.settings.grace_s:g} s")

    async def on_tick(self, counter: int) -> bool:
        if self._end is not None and not self.should_exit:
            now = self._app.served.service.snapshot()
            self.should_exit = monotonic() >= self._end or not (now.running or now.queued)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self._app.served.service.close, 0.0)
        await super().shutdown(sockets)


def listen(settings: Settings) -> socket.socket:
    """A listening socket. Raises UsageError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named, or asyncio would not turn Nagle's algorithm off: 40 ms for each answer.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        where = f"{settings.host} port {settings.port}"
        raise UsageError(
            f"cannot listen on {where}: {error.strerror or error}; give another --host or --port"
        ) from error
    return sock


def tell(text: str) -> None:
    """A line on stderr, lost where nobody reads it: a full pipe, or a terminal that was stopped,
    must not stop the loop, and with it every stream and the end."""
    raw, room = f"{text}\n".encode(errors="backslashreplace"), select.poll()
    with suppress(OSError, AttributeError):  # the last: there is no stderr
        stderr = sys.stderr.fileno()  # not 2: that may be a client's, where the process had none
        room.register(stderr, select.POLLOUT)
        for at in range(0, len(raw), select.PIPE_BUF):  # what a pipe that has room takes at once
            if not room.poll(0):
                return
            os.write(stderr, raw[at : at + select.PIPE_BUF])


class _Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(self.format(record))


def log_to_stderr() -> None:
    """Faults, a line for each answer, and what --log-prompts asks for; never a prompt otherwise."""
    handler = _Log()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    for name, level in (("qwell.server", logging.INFO), ("uvicorn.error", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        logger.handlers = [handler]


def report(app: App, address: tuple[str, int], speed: str, weight_bytes: int) -> Iterator[str]:
    """What an operator wants to know before the first request: what it is, what it may take, how
    fast it is, what is enforced."""
    served, settings, engine = app.served, app.settings, app.served.llm.engine
    limits, found = served.service.limits, served.service.snapshot()
    left = available_bytes()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    yield f"{served.name} at http://{host}:{address[1]}/v1"
    yield f"web page     http://{host}:{address[1]}/"
    if served.llm.adapter_id:
        yield f"adapter      {served.llm.adapter_id}"
    yield f"context      {served.llm.max_context:,} tokens a request, prompt and reply"
    kv_bytes, taken = engine.cache_bytes, "now" if engine.is_committed else "as they are used"
    total = weight_bytes + kv_bytes + WORK_BYTES
    yield (
        f"memory       at most {total / 1e9:.2f} GB: weights {weight_bytes / 1e9:.2f}, keys and "
        f"values {kv_bytes / 1e9:.2f} ({found.pages_total:,} pages, taken {taken}), work "
        f"{WORK_BYTES / 1e9:.2f}"
        + ("" if left is None else f"; {left / 1e9:.1f} GB of the machine are free")
    )
    yield f"speed        {speed}"
    yield (
        f"queue        {limits.max_queued} requests, {limits.max_queued_tokens:,} tokens, "
        f"{limits.max_wait_s:g} s; {engine.max_seqs} run at a time"
    )
    yield f"keys         {'needed' if settings.has_keys else 'none: this machine alone'}"
    yield (
        f"limits       body {settings.max_body >> 20} MiB, {settings.max_connections} connections; "
        f"unknown fields are {'refused' if settings.strict else 'told as ignored'}"
    )
    origins = ", ".join(settings.cors_origins) or "none but its own page"
    yield f"origins      {origins}"
    yield f"prompts      {'LOGGED, as asked' if settings.log_prompts else 'not logged'}"


def measured_speed(llm: LLM, ceiling_gb_per_s: float | None) -> str:
    """A short request on this machine, now: the first estimate of what users will see."""
    ids = llm.tokenizer.encode("The quick brown fox jumps over the lazy dog. " * 12)
    size = max(1, min(96, llm.max_context - 10))
    timings = llm.generate(ids[:size], temperature=0.0, max_tokens=9, ignore_eos=True).timings
    parts = [
        ("prompt", timings.prefill_tok_per_s),
        ("one reply", timings.decode_tok_per_s),
    ]
    told = [f"{name} {value:,.0f} tokens/s" for name, value in parts if value]
    if ceiling_gb_per_s:
        told.append(f"memory {ceiling_gb_per_s:.1f} GB/s")
    return ", ".join(told)
