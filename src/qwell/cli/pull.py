"""`qwell pull MODEL`: fetch a model, verify it, say where it lies.

Progress goes to stderr (a bar on a terminal, a line every ten per cent elsewhere), the result to
stdout. What a pull does is hub's business.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from qwell.errors import UsageError
from qwell.hub import store
from qwell.hub.catalogue import lookup
from qwell.hub.download import Reporter
from qwell.hub.pull import pull as pull_entry
from qwell.hub.resolve import find, local_model

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def pull(model: str, *, source: str | None = None) -> None:
    """Fetches `model` unless it is here; what is here is verified again. `source` names the
    sources to try, comma separated: huggingface, modelscope, mirror."""
    if local_model(model):
        raise UsageError(f"{model} is a path on this machine: there is nothing to pull")
    entry = lookup(model)
    cached = None if store.read_manifest(entry.key) else find(entry)
    if cached:
        print(f"{entry.name} is in the Hugging Face cache and used from there: {cached.paths[0]}")
        return
    with reporter() as shown:
        manifest = pull_entry(entry, source=source, reporter=shown)
    folder = store.model_dir(entry.key)
    print(f"{entry.name}: {size_text(manifest.size)} from {manifest.source}, verified, in {folder}")
    if entry.licence and entry.licence != "Apache-2.0":
        print(f"{entry.name} stands under the {entry.licence}: read it before commercial use")


def size_text(size: int) -> str:
    """Bytes for people, in decimal units like a disk's label."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"


def reporter() -> LineReporter | BarReporter:
    """What suits stderr. A context manager: leaving it closes the bar."""
    return BarReporter() if sys.stderr.isatty() else LineReporter()


class LineReporter(Reporter):
    """Plain lines for logs: one at every tenth."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def begin(self, name: str, total_bytes: int, done_bytes: int) -> None:
        self._name, self._total, self._first = name, max(total_bytes, 1), done_bytes
        self._tenth, self._start = done_bytes * 10 // self._total, time.monotonic()
        resumed = f", {size_text(done_bytes)} already here" if done_bytes else ""
        self.note(f"{name}: {size_text(total_bytes)}{resumed}")

    def advance(self, done_bytes: int) -> None:
        if done_bytes * 10 // self._total <= self._tenth:
            return
        self._tenth = done_bytes * 10 // self._total
        seconds = max(time.monotonic() - self._start, 1e-3)
        speed = max((done_bytes - self._first) / seconds, 1.0)
        left = (self._total - done_bytes) / speed
        self.note(
            f"{self._name}: {self._tenth * 10} % of {size_text(self._total)}, "
            f"{size_text(int(speed))}/s, {left:.0f} s left"
        )


class BarReporter(Reporter):
    """A bar with bytes, speed and the time left."""

    def __init__(self) -> None:
        self._task: TaskID | None = None
        self._progress = _bar()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, name: str, total_bytes: int, done_bytes: int) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._done = done_bytes
        self._task = self._progress.add_task(name, total=total_bytes, completed=done_bytes)

    def advance(self, done_bytes: int) -> None:
        if self._task is not None:
            # Never back: a mirror piece is counted while pip still holds it compressed.
            self._done = max(self._done, done_bytes)
            self._progress.update(self._task, completed=self._done)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
