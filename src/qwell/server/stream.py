"""Events of the engine's thread reach a connection: as server-sent events or as one body.

A client that leaves cancels its request, whether it streams or waits, queued or running. Knows no
kind of request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack, suppress
from functools import partial

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qwell.engine.jobs import Event
from qwell.engine.service import Service, Ticket
from qwell.server.errors import ApiError, from_exception
from qwell.server.exchange import Exchange, Json

log = logging.getLogger("qwell.server")


class Run:
    """The jobs of one exchange in the service, and the queue their events come through."""

    def __init__(self, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        self.exchange, self._loop = exchange, loop
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
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

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        while not self.exchange.is_done:
            yield await self._events.get()

    def _push(self, index: int, event: Event) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody is there to read
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))


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

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async for job, event in self._run.events():
                self._run.exchange.hear(job, event)
            response = json_response(self._run.exchange.whole())
        except Exception as error:
            response = error_response(error)
        await response(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for text in self._lines():
                await send({"type": "http.response.body", "body": text, "more_body": True})
        except ConnectionError:
            raise
        except Exception as error:
            body = sse(_told(error).body())
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _lines(self) -> AsyncIterator[bytes]:
        exchange, events = self._run.exchange, self._run.events()
        async for item in _with_pauses(events, self._keep_alive_s):
            if item is None:
                yield b": keep-alive\n\n"
            elif body := b"".join(map(sse, exchange.chunks(*item))):
                yield body
        for chunk in exchange.last():
            yield sse(chunk)


async def _with_pauses(
    events: AsyncIterator[tuple[int, Event]], seconds: float
) -> AsyncIterator[tuple[int, Event] | None]:
    """The events; None whenever none came for so long."""
    waiting: asyncio.Future[tuple[int, Event]] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({waiting}, timeout=seconds)
            if not done:
                yield None
                continue
            try:
                event = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            yield event
    finally:
        if waiting is not None:
            waiting.cancel()


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
    return b"data: " + dump(value) + b"\n\n"


def dump(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def json_response(
    value: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(dump(value), status, headers, media_type="application/json")


def error_response(error: Exception) -> Response:
    told = _told(error)
    return json_response(told.body(), told.status, told.headers)


def _told(error: Exception) -> ApiError:
    """What the client is told; a fault of ours goes into the log, traceback and all."""
    number = secrets.token_hex(4)
    told = from_exception(error, number)
    if told.status == 500:
        log.error("fault %s", number, exc_info=error)
    return told
