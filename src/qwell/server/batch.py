"""A file of requests in OpenAI's batch format -> a file of replies, a line each, in any order.

A reply is in the file, whole and synced, before it counts as done: a run that was killed goes on
where it stopped. What the last one left half written is cut off first. No HTTP is involved, but the
same reading and the same bodies.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from qwell.engine.jobs import Event, Overloaded
from qwell.errors import NotFoundError, StorageError, UsageError
from qwell.server.auth import NOBODY
from qwell.server.errors import ApiError, from_exception
from qwell.server.exchange import Exchange, Json
from qwell.server.json_body import read_json
from qwell.server.kinds import CHAT, COMPLETIONS, exchange_of
from qwell.server.served import Served
from qwell.server.stream import dump

URLS = (CHAT, COMPLETIONS)
_Events = SimpleQueue[tuple["_Line", int, Event]]


class _Line:
    """One request that runs."""

    def __init__(self, custom_id: str, exchange: Exchange) -> None:
        self.custom_id, self.exchange = custom_id, exchange


class Batch:
    """progress(done, total) is called after every reply."""

    def __init__(
        self,
        served: Served,
        source: Path,
        target: Path,
        *,
        strict: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._served, self._strict = served, strict
        self._progress = progress or (lambda *_: None)
        self._source, self._target = source, target
        self._events: _Events = SimpleQueue()
        self._running: set[_Line] = set()
        self._done = 0
        self.failed = 0
        """Replies of the last run that are errors."""

    def run(self) -> int:
        """Answers what is not answered yet; gives how many lines that were. Raises NotFoundError,
        UsageError (the target is no result of a batch, an id is there twice), StorageError."""
        finished = finished_ids(self._target)
        total = _count(self._source)
        self._done = self.failed = 0
        before = len(finished)
        try:
            with self._target.open("ab") as out:
                for number, line in _lines(self._source):
                    self._begin(out, number, line, finished)
                    self._progress(before + self._done, total)
                while self._running:
                    self._wait(out)
                    self._progress(before + self._done, total)
        except OSError as error:
            raise StorageError(
                f"{self._target} cannot be written: {error.strerror or error}; "
                "what was done is kept"
            ) from error
        return self._done

    def _begin(self, out: IO[bytes], number: int, line: bytes, finished: set[str]) -> None:
        custom_id = _name(line, number)
        if custom_id in finished:
            return
        try:
            url, body = _request(line, number)
            self._submit(out, custom_id, url, body)
        except Exception as error:
            told = from_exception(error, custom_id)
            self._write(out, custom_id, told.status, told.body())

    def _submit(self, out: IO[bytes], custom_id: str, url: str, body: Any) -> None:
        if isinstance(body, dict) and body.get("stream"):
            raise ApiError(400, "stream is for live requests: leave it out of a batch", "stream")
        exchange = exchange_of(self._served, url, body, NOBODY, strict=self._strict)
        line = _Line(custom_id, exchange)
        most = 2 * self._served.llm.engine.max_seqs
        while len(self._running) >= most:
            self._wait(out)
        for index, job in enumerate(exchange.jobs):
            while True:
                try:
                    self._served.service.submit(job, partial(self._hear, line, index))
                    break
                except Overloaded:
                    if not self._running:
                        raise
                    self._wait(out)
        self._running.add(line)

    def _hear(self, line: _Line, job: int, event: Event) -> None:
        self._events.put((line, job, event))

    def _wait(self, out: IO[bytes]) -> None:
        """Takes one event; writes a reply if it was the last of one."""
        line, job, event = self._events.get()
        try:
            line.exchange.hear(job, event)
            if line.exchange.is_done:
                self._running.discard(line)
                self._write(out, line.custom_id, 200, line.exchange.whole())
        except Exception as error:
            if line in self._running:
                self._running.discard(line)
                told = from_exception(error, line.custom_id)
                self._write(out, line.custom_id, told.status, told.body())

    def _write(self, out: IO[bytes], custom_id: str, status: int, body: Json) -> None:
        number = secrets.token_hex(12)
        response = {"status_code": status, "request_id": f"req_{number}", "body": body}
        line = {"id": f"batch_req_{number}", "custom_id": custom_id, "response": response}
        out.write(dump({**line, "error": None}) + b"\n")
        out.flush()
        os.fsync(out.fileno())
        self._done += 1
        self.failed += status != 200


def finished_ids(target: Path) -> set[str]:
    """custom_ids that `target` has replies to; a torn last line is cut off."""
    if not target.exists():
        return set()
    found: set[str] = set()
    whole = 0
    with target.open("rb+") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            try:
                found.add(json.loads(line)["custom_id"])
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{target} is no result of a batch: give another file") from error
            whole += len(line)
        lines.truncate(whole)
    return found


def _lines(source: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with source.open("rb") as lines:
            yield from ((n, line) for n, line in enumerate(lines, 1) if line.strip())
    except OSError as error:
        raise NotFoundError(f"{source} cannot be read: {error.strerror or error}") from error


def _count(source: Path) -> int:
    """Lines of the source, whose ids must differ: a reply could not be told from another."""
    first: dict[str, int] = {}
    total = 0
    for number, line in _lines(source):
        total += 1
        custom_id = _name(line, number)
        if custom_id in first:
            raise UsageError(
                f"{source} has the custom_id {custom_id!r:.60} in the lines {first[custom_id]} and "
                f"{number}: make them differ"
            )
        first[custom_id] = number
    return total


def _name(line: bytes, number: int) -> str:
    """The custom_id, also of a request that is wrong elsewhere, so that its error finds its way
    back; the number of a line that has none."""
    try:
        return _custom_id(read_json(line.strip())) or f"line {number}"
    except ApiError:
        return f"line {number}"


def _custom_id(value: Any) -> str | None:
    custom_id = value.get("custom_id") if isinstance(value, dict) else None
    return custom_id if isinstance(custom_id, str) else None


def _request(line: bytes, number: int) -> tuple[str, Any]:
    """Its url and body."""
    value = read_json(line.strip())
    if not _custom_id(value):
        raise ApiError(400, f"line {number} has no custom_id", "custom_id")
    if value.get("method", "POST") != "POST" or value.get("url") not in URLS:
        urls = " or ".join(URLS)
        raise ApiError(400, f"line {number}: give method POST and the url {urls}", "url")
    return value["url"], value.get("body")
