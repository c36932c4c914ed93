"""Events of the engine's thread reach a connection: as server-sent events or as one body.

A client that leaves cancels its request, whether it streams or waits, queued or running. Knows no
kind of request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack, suppress
from functools import partial
from time import perf_counter

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qwell.engine.jobs import Event
from qwell.engine.service import Service, Ticket
from qwell.server.errors import ApiError, from_exception, ignored
from qwell.server.exchange import Exchange, Json

log = logging.getLogger("qwell.server")


Item = tuple[int, Event]
"""Of which job, and what."""


class Inbox:
    """What waits for one connection; the loop's thread alone uses it."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._reader: asyncio.Future[None] | None = None

    def put(self, item: Item) -> None:
        self._items.append(item)
        self._wake()

    async def get(self, seconds: float | None = None) -> list[Item]:
        """All that came; none if nothing came for so long. One task may wait at a time."""
        if not self._items:
            loop = asyncio.get_running_loop()
            self._reader = loop.create_future()
            timer = None if seconds is None else loop.call_later(seconds, self._wake)
            try:
                await self._reader
            finally:
                self._reader = None
                if timer is not None:
                    timer.cancel()
        found, self._items = self._items, []
        return found

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Mail:
    """From the engine's thread to a loop: what a step tells all its streams wakes the loop once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[tuple[Inbox, Item]] = deque()
        self._is_called = False

    def send(self, inbox: Inbox, item: Item) -> None:
        """From any thread."""
        self._items.append((inbox, item))
        if not self._is_called:
            self._is_called = True
            with suppress(RuntimeError):  # the loop has ended: nobody is there to read
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_called = False  # first: what comes from now on calls again
        while self._items:
            inbox, item = self._items.popleft()
            inbox.put(item)


class Run:
    """The jobs of one exchange in the service, and what comes of them."""

    def __init__(self, exchange: Exchange, mail: Mail) -> None:
        self.exchange, self.inbox = exchange, Inbox()
        self._mail, self._begin = mail, perf_counter()
        self._tickets: list[Ticket] = []

    def submit(self, service: Service) -> None:
        """All jobs or none; takes time where a grammar must be compiled."""
        try:
            for index, job in enumerate(self.exchange.jobs):
                self._tickets.append(service.submit(job, partial(self._push, index)))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    def summary(self) -> str:
        """A line for the log."""
        return f"{self.exchange.summary()}; {perf_counter() - self._begin:.2f} s"

    def _push(self, index: int, event: Event) -> None:
        self._mail.send(self.inbox, (index, event))


class Answer(Response):
    """The response to one exchange. `held` is closed when it has ended in any way."""

    def __init__(self, run: Run, held: ExitStack, keep_alive_s: float) -> None:
        super().__init__()
        self._run, self._held, self._keep_alive_s = run, held, keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tell = self._stream if self._run.exchange.request.stream else self._whole
        with self._held:
            try:
                await while_connected(tell(scope, receive, send), receive)
            finally:
                self._run.cancel()
                log.info("%s", self._run.summary())

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            exchange = self._run.exchange
            while not exchange.is_done:
                for item in await self._run.inbox.get():
                    exchange.hear(*item)
            response = json_response(exchange.whole(), headers=ignored(exchange.ignored))
        except Exception as error:
            response = error_response(error)
        await response(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        told = ignored(self._run.exchange.ignored)
        headers += [(name.lower().encode(), value.encode()) for name, value in told.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for text in self._lines():
                await send({"type": "http.response.body", "body": text, "more_body": True})
        except ConnectionError:
            raise
        except Exception as error:
            body = sse(_as_api_error(error).body())
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _lines(self) -> AsyncIterator[bytes]:
        exchange = self._run.exchange
        while not exchange.is_done:
            items = await self._run.inbox.get(self._keep_alive_s)
            body, error = _chunks(exchange, items)
            if body or not items:
                yield body or b": keep-alive\n\n"
            if error is not None:
                raise error
        for chunk in exchange.last():
            yield sse(chunk)


def _chunks(exchange: Exchange, items: list[Item]) -> tuple[bytes, Exception | None]:
    """The chunks that events make certain, up to one that is a fault, and that fault."""
    parts: list[bytes] = []
    try:
        for item in items:
            parts += map(sse, exchange.chunks(*item))
    except Exception as error:
        return b"".join(parts), error
    return b"".join(parts), None


async def while_connected(work: Awaitable[None], receive: Receive) -> None:
    """Does the work, or stops it when the client has gone."""
    doing = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
    finally:
        for task in (doing, gone):
            task.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def sse(value: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + dump(value) + b"\n\n"


def dump(value: object) -> bytes:
    """JSON as every body has it: UTF-8, no spaces, no NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def json_response(
    value: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(dump(value), status, headers, media_type="application/json")


def error_response(error: Exception) -> Response:
    told = _as_api_error(error)
    return json_response(told.body(), told.status, told.headers)


def _as_api_error(error: Exception) -> ApiError:
    """What the client is told; a fault of ours goes into the log, traceback and all."""
    number = secrets.token_hex(4)
    told = from_exception(error, number)
    if told.status == 500:
        log.error("fault %s", number, exc_info=error)
    return told
