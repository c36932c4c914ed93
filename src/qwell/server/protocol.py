"""uvicorn's HTTP/1.1 protocol with ends to what a client may keep open, and JSON for its refusals.

A head must be whole within a time that further bytes do not renew, connections are counted. Knows
no route.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from qwell.server.errors import ApiError
from qwell.server.guard import BODY_READ
from qwell.server.settings import Settings
from qwell.server.stream import dump

_READ = 32 << 10
"""Bytes taken from a connection at a time: those of one never keep the others waiting for long."""
_FRAMING = 64 << 10
"""So many bytes of a body may be chunk heads before the share of its content is looked at."""


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol of one connection, within the bounds of `settings`."""

    settings: ClassVar[Settings]
    _head_timer: asyncio.TimerHandle | None = None
    _on_wire = 0  # bytes since the head of the request whose body is read now

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = _READ  # type: ignore[attr-defined]
        if len(self.connections) > self.settings.max_connections:
            self._refuse(ApiError(503, "too many connections are open: try again later"))
            return
        self._head_timer = self.loop.call_later(self.settings.head_s, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)
            self._watch_head()
            self._watch_body(len(data))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        self._refuse(ApiError(400, "this is no valid HTTP/1.1 request, or its head is too large"))

    def _watch_head(self) -> None:
        """The clock runs from the first byte of a head to its end."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._head_timer is None and self.conn.trailing_data[0]:
            self._head_timer = self.loop.call_later(self.settings.head_s, self._head_late)

    def _watch_body(self, size: int) -> None:
        """Chunks of single bytes cost a hundred times what they bring."""
        if self.conn.their_state is not h11.SEND_BODY or self.cycle is None:
            self._on_wire = 0
            return
        self._on_wire += size
        content = cast(int, self.cycle.scope.get(BODY_READ, 0)) + len(self.cycle.body)
        if self._on_wire > _FRAMING + 4 * content:
            self._refuse(ApiError(400, "the body comes in chunks that are too small: send larger"))

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        self._refuse(ApiError(408, f"the head took longer than {self.settings.head_s:g} s"))

    def _refuse(self, error: ApiError) -> None:
        """Answers if that is still possible, and closes."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = dump(error.body())
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (
                h11.Response(status_code=error.status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def protocol_for(given: Settings) -> type[GuardedProtocol]:
    """A class, for uvicorn makes the instances itself."""

    class Protocol(GuardedProtocol):
        settings = given

    return Protocol
