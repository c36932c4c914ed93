"""`qwell serve MODEL`: OpenAI's API on this machine. `qwell key NAME`: a key for it."""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qwell.cli.opening import open_model, read_template
from qwell.cli.terminal import note
from qwell.errors import MemoryBudgetError, UsageError

if TYPE_CHECKING:
    from socket import socket

    from qwell.engine.jobs import Limits
    from qwell.engine.llm import LLM
    from qwell.server.auth import Gate
    from qwell.server.settings import Settings


def serve(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: str | None = None,
    ctx: int | None = None,
    kv_budget: int | None = None,
    kv_dtype: str | None = None,
    adapter: str | None = None,
    int8: bool = False,
    threads: int | None = None,
    chat_template: str | None = None,
    max_queue: int = 256,
    max_queue_tokens: int = 262_144,
    max_wait: float = 60.0,
    max_seqs: int = 64,
    cors_origin: list[str] | None = None,
    allow_host: list[str] | None = None,
    strict: bool = False,
    log_prompts: bool = False,
    grace_s: float = 30.0,
) -> None:
    """Serves until it is told to stop. Options that are wrong are told before anything loads."""
    from qwell.server.auth import Gate, read_keys
    from qwell.server.serve import listen
    from qwell.server.settings import Settings

    tenants = () if api_key_file is None else read_keys(Path(api_key_file))
    settings = Settings(
        host=host,
        port=port,
        has_keys=bool(tenants),
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=tuple(allow_host or ()),
        strict=strict,
        log_prompts=log_prompts,
        grace_s=grace_s,
    )
    template = None if chat_template is None else read_template(chat_template)
    with listen(settings) as sock:  # a port that is taken is told now, not after the load
        from qwell.engine.jobs import Limits
        from qwell.engine.memory import Room

        llm = open_model(
            model,
            ctx=ctx,
            threads=threads,
            int8=int8,
            kv_dtype=kv_dtype,
            adapter=adapter,
            template=template,
            room=Room(max_seqs=max_seqs, kv_budget=kv_budget or "auto"),
        )
        if kv_budget is not None:  # what was asked for is had now or never, not in mid-reply
            llm.engine.commit()
        limits = Limits(
            max_queued=max_queue, max_queued_tokens=max_queue_tokens, max_wait_s=max_wait
        )
        _serve(llm, sock, settings, limits, Gate(tenants), alias=model)


def _serve(
    llm: LLM, sock: socket, settings: Settings, limits: Limits, gate: Gate, *, alias: str
) -> None:
    """Serves an opened model on an open socket until it is told to stop."""
    from qwell.engine.service import Service
    from qwell.server.app import App
    from qwell.server.serve import Server, log_to_stderr, measured_speed, report, tell
    from qwell.server.served import Served

    log_to_stderr()
    ceiling = memory_ceiling(llm)
    speed = measured_speed(llm, ceiling)
    service = Service(llm, limits)
    served = Served(llm, service, settings, aliases=(alias,), ceiling_gb_per_s=ceiling)
    app = App(served, gate)
    weight_bytes = getattr(llm.backend, "memory_bytes", 4 * llm.config.num_parameters)
    for line in report(app, sock.getsockname()[:2], speed, weight_bytes):
        note(line)
    gc.collect()
    gc.freeze()  # what is loaded stays: looking through it again and again would stop streams
    try:
        Server(app, sock, tell).run_here()
    finally:
        gc.unfreeze()  # or the model would outlive the interpreter, which complains of that


def memory_ceiling(llm: LLM) -> float | None:
    """GB/s this machine's memory gives the model's threads; None where it cannot be measured."""
    from qwell.engine.memory import available_bytes
    from qwell.native.probe import Probe

    threads = getattr(llm.backend, "num_threads", None)
    with suppress(MemoryBudgetError):
        return Probe(threads, room=available_bytes()).bandwidth()
    return None


def key(name: str) -> None:
    """Prints a fresh key to stderr, and the line for the key file to stdout."""
    from qwell.server.auth import new_key

    if not name.isprintable() or not name or " " in name:
        raise UsageError("the name of a key is one word")
    secret, line = new_key(name)
    print(f"the key, shown once: {secret}", file=sys.stderr)
    print(line)
