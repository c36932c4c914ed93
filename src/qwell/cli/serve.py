"""`qwell serve MODEL`: OpenAI's API on this machine. `qwell key NAME`: a key for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwell.cli.opening import open_model, read_template
from qwell.cli.terminal import note
from qwell.errors import UsageError

if TYPE_CHECKING:
    from qwell.engine.jobs import Limits
    from qwell.engine.memory import Room


def serve(
    model: str,
    *,
    api_key_file: str | None = None,
    cors_origin: list[str] | None = None,
    allow_host: list[str] | None = None,
    ctx: int | None = None,
    threads: int | None = None,
    int8: bool = False,
    kv_dtype: str | None = None,
    chat_template: str | None = None,
    **options: Any,
) -> None:
    """Serves until it is told to stop. Options that are wrong are told before anything loads."""
    from qwell.server.auth import Gate, read_keys
    from qwell.server.serve import Server, listen, log_to_stderr, measured_speed, report
    from qwell.server.settings import Settings

    tenants = () if api_key_file is None else read_keys(Path(api_key_file))
    limits, room = _limits(options), _room(options)
    settings = Settings(
        has_keys=bool(tenants),
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=tuple(allow_host or ()),
        **options,
    )
    template = None if chat_template is None else read_template(chat_template)
    sock = listen(settings)  # a port that is taken is told now, not after the load
    with sock:
        llm = open_model(
            model,
            ctx=ctx,
            threads=threads,
            int8=int8,
            kv_dtype=kv_dtype,
            template=template,
            room=room,
        )
        from qwell.engine.memory import kv_bytes
        from qwell.engine.service import Service
        from qwell.model.batch import PAGE_SIZE
        from qwell.server.app import App
        from qwell.server.served import Served

        log_to_stderr()
        speed = measured_speed(llm)
        app = App(Served(llm, Service(llm, limits), settings, aliases=(model,)), Gate(tenants))
        pages = app.served.service.snapshot().pages_total
        memory = kv_bytes(llm.config, pages * PAGE_SIZE, kv_dtype or "bf16")
        for line in report(app, sock.getsockname()[:2], speed, memory):
            note(line)
        Server(app, sock, note).run_here()


def _limits(options: dict[str, Any]) -> Limits:
    """Takes what belongs to the queue out of the options."""
    from qwell.engine.jobs import Limits

    names = {
        "max_queue": "max_queued",
        "max_queue_tokens": "max_queued_tokens",
        "max_wait": "max_wait_s",
    }
    return Limits(**{field: options.pop(name) for name, field in names.items() if name in options})


def _room(options: dict[str, Any]) -> Room:
    from qwell.engine.memory import Room

    return Room(
        max_seqs=options.pop("max_seqs", 64), kv_budget=options.pop("kv_budget", None) or "auto"
    )


def key(name: str) -> None:
    """Prints a fresh key to stderr, and the line for the key file to stdout."""
    from qwell.server.auth import new_key

    if not name.isprintable() or not name or " " in name:
        raise UsageError("the name of a key is one word")
    secret, line = new_key(name)
    print(f"the key, shown once: {secret}", file=sys.stderr)
    print(line)
