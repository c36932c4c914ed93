"""`qwell batch IN OUT --model MODEL`: a file of requests answered offline, resumable."""

from __future__ import annotations

from pathlib import Path

from qwell.cli.opening import open_model, read_template
from qwell.cli.terminal import Progress, note
from qwell.errors import NotFoundError, UsageError


def batch(
    source: str,
    target: str,
    *,
    model: str,
    ctx: int | None = None,
    threads: int | None = None,
    int8: bool = False,
    kv_dtype: str | None = None,
    adapter: str | None = None,
    chat_template: str | None = None,
    strict: bool = False,
) -> None:
    """Writes a line to `target` for every request of `source` that has none there yet."""
    if not Path(source).is_file():
        raise NotFoundError(f"{source} is no file: give one in OpenAI's batch format")
    if Path(target).is_dir():
        raise UsageError(f"{target} is a folder: name the file for the replies")
    if Path(target).exists() and Path(target).samefile(source):
        raise UsageError(f"{target} is what is read: give another file for the replies")
    template = None if chat_template is None else read_template(chat_template)
    from qwell.engine.jobs import Limits
    from qwell.engine.memory import Room
    from qwell.engine.service import Service
    from qwell.server.batch import Batch
    from qwell.server.served import Served
    from qwell.server.settings import Settings

    llm = open_model(
        model,
        ctx=ctx,
        threads=threads,
        int8=int8,
        kv_dtype=kv_dtype,
        adapter=adapter,
        template=template,
        room=Room(max_seqs=32, kv_budget="auto"),
    )
    # Nobody waits here: the queue is as long as the batch wants it.
    limits = Limits(max_queued=1 << 20, max_queued_tokens=1 << 40, max_wait_s=1e9)
    served = Served(llm, Service(llm, limits), Settings(), aliases=(model,))
    shown = Progress("answering", in_pipes=True)
    try:
        work = Batch(served, Path(source), Path(target), strict=strict, progress=shown)
        count = work.run()
    finally:
        shown.close()
        served.service.close()
    errors = f", {work.failed:,} of them errors" if work.failed else ""
    note(f"replies written to {target}: {count:,}{errors}")
