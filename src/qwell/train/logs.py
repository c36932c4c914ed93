"""What a run tells: a line of JSON for every event, TensorBoard if asked for, a line for people.

log.jsonl is the record of the run. A resumed run first drops the lines after its checkpoint, so the
file reads as that of one run that was never interrupted; floats are written so that they read back
bit for bit.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from qwell.train.files import write_whole, writing
from qwell.train.loop import Event

LOG = "log.jsonl"


class Watcher(Protocol):
    """Told of every event, and of the end."""

    def __call__(self, event: Event) -> None: ...
    def close(self) -> None: ...


class JsonLog:
    """log.jsonl of a run that goes on at `step`."""

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / LOG
        kept = [line for line in read_log(folder) if line["step"] <= step]
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")

    def __call__(self, event: Event) -> None:
        with writing(self._path):
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()

    def close(self) -> None:
        with writing(self._path):
            self._file.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The events of a run in order; a last line cut by a crash is left out."""
    path = folder / LOG
    if not path.exists():
        return []
    found = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


class TensorBoard:
    """The numbers of steps and measurements as TensorBoard events."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __call__(self, event: Event) -> None:
        for name, value in event.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if event["kind"] in ("step", "eval") and name != "step" and is_number:
                self._writer.add_scalar(f"{event['kind']}/{name}", value, event["step"])

    def close(self) -> None:
        self._writer.close()


class Screen:
    """Progress on stderr: one living line on a terminal, else a line every few seconds."""

    def __init__(self, step: int, total: int, every_s: float = 10.0) -> None:
        self._total, self._first, self._every_s = total, step, every_s
        self._started, self._next = perf_counter(), 0.0
        self._live: Any = None
        if sys.stderr.isatty():
            self._live, self._task = _bar(step, total)

    def __call__(self, event: Event) -> None:
        if event["kind"] == "step":
            self._step(event)
        elif event["kind"] == "eval":
            numbers = (f"{k} {v:.4f}" for k, v in event.items() if isinstance(v, float))
            self._say(f"step {event['step']:,}: held out: {', '.join(numbers)}")
        elif event["kind"] == "note":
            self._say(event["text"])

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _step(self, event: Event) -> None:
        if event["skipped"]:
            self._say(f"step {event['step']:,} skipped: {event['skipped']}")
        now = perf_counter()
        left = (self._total - event["step"]) * (now - self._started) / (event["step"] - self._first)
        text = (
            f"loss {event['loss']:.4f}  lr {event['lr']:.2e}  |g| {event['grad_norm']:.2f}  "
            f"{event['tok_per_s']:,.0f} tok/s  MFU {100 * event['mfu']:.0f} %"
        )
        if self._live is not None:
            self._live.update(self._task, completed=event["step"], info=f"{text}  {clock(left)}")
        elif now >= self._next or event["step"] == self._total:
            self._next = now + self._every_s
            self._say(f"step {event['step']:,}/{self._total:,}  {text}  {clock(left)} left")

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


class Share:
    """A callable (done, total): every few seconds a line on stderr on how much of it is done. Of
    several processes the first speaks."""

    def __init__(self, what: str, every_s: float = 5.0) -> None:
        self._what, self._every_s = what, every_s
        self._next = perf_counter() + every_s
        self._is_silent = os.environ.get("RANK", "0") != "0"

    def __call__(self, done: int, total: int) -> None:
        now = perf_counter()
        if now >= self._next and not self._is_silent:
            self._next = now + self._every_s
            print(f"{self._what}: {100 * done // total} %", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """A time for people: 3:07, 2:14:05, or 12 days."""
    whole = math.ceil(seconds)
    if whole >= 100 * 86_400 * 365:
        return f"{whole / 86_400 / 365:,.0f} years"
    if whole >= 2 * 86_400:
        return f"{whole / 86_400:,.0f} days"
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _bar(step: int, total: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[info]}"),
        console=Console(stderr=True),
    )
    task = bar.add_task("train", total=total, completed=step, info="")
    bar.start()
    return bar, task
