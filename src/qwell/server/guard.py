"""Who may come in, before any route: the outermost layer of the application.

- Host must mean this machine, so that no web page can reach it under a name of its own (rebinding).
- Origin, if a browser sends one, must be ours or named by --cors-origin.
- Every path needs a key where there are keys, save those that `is_open` lets through.
- A body is bounded in size and time, a client that does not read is dropped.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from functools import partial
from time import monotonic
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwell.server.auth import Gate
from qwell.server.errors import ApiError, retry_after
from qwell.server.settings import Settings, is_loopback
from qwell.server.stream import error_response

_SPARE, _SPARE_S = 64 << 20, 3.0
"""So much of a body that is too large is read and dropped, so that its sender hears the answer."""
BODY_READ = "qwell.body_read"
"""In the scope: bytes of the body that have been received."""
_SMALL = 64 << 10
"""So much of every body is taken however many large ones are held."""
_OWN_HEADERS = b"x-qwell-strict, x-qwell-truth"
_SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """is_open: whether a path needs no key. on_status hears the path and status of each answer."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        gate: Gate,
        *,
        is_open: Callable[[str], bool],
        on_status: Callable[[str, int], None],
    ) -> None:
        self._app, self._settings, self._gate = app, settings, gate
        self._is_open, self._on_status = is_open, on_status
        names = {"localhost", socket.gethostname().lower(), settings.host.lower()}
        self._bodies = _Bodies(settings.max_bodies)
        self._names = names | {host.lower() for host in settings.allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])  # of two that are equal the last: each is checked alone
        cors: list[tuple[bytes, bytes]] = []
        body = _Body(receive, scope, self._settings, self._bodies)
        sender = _Sender(
            send, self._settings.write_s, cors, partial(self._on_status, scope["path"])
        )
        try:
            self._check_host(scope["headers"])
            origin = headers.get(b"origin")
            if origin is not None:
                cors += self._check_origin(origin.decode("latin-1"), headers[b"host"])
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await sender.preflight()
                return
            tenant = self._tenant(scope["path"], headers)
            _check_length(headers, self._settings.max_body)
        except ApiError as error:
            if error.status == 413:
                await body.drop()
            await error_response(error)(scope, receive, sender)
            return
        scope.setdefault("state", {})["tenant"] = tenant
        try:
            await self._app(scope, body, sender)
        except Exception as error:
            if sender.has_begun:  # nothing sane can follow: the connection is closed
                raise
            await error_response(error)(scope, receive, sender)
        finally:
            body.release()

    def _tenant(self, path: str, headers: dict[bytes, bytes]) -> object:
        if self._is_open(path):
            return None
        given = headers.get(b"authorization")
        return self._gate.tenant(None if given is None else given.decode("latin-1"))

    def _check_host(self, headers: list[tuple[bytes, bytes]]) -> None:
        hosts = [value for name, value in headers if name == b"host"]
        name = _host_name(hosts[0].decode("latin-1")) if len(hosts) == 1 else ""
        # A name can be made to point here by anyone; an address cannot.
        is_ours = name in self._names or is_loopback(name)
        is_ours |= not is_loopback(self._settings.host) and _is_address(name)
        if not is_ours:
            raise ApiError(
                403,
                f"the Host header {name!r:.80} is none of this server's: use its address, or start "
                "it with --allow-host",
                code="wrong_host",
            )

    def _check_origin(self, origin: str, host: bytes) -> list[tuple[bytes, bytes]]:
        """Headers that let the page read the answer; none are needed for our own."""
        parts = urlsplit(origin)
        if parts.scheme in ("http", "https") and parts.netloc.encode() == host:
            return []
        allowed = self._settings.cors_origins
        if origin not in allowed and "*" not in allowed:
            raise ApiError(
                403,
                f"the web page {origin!r:.80} may not call here: start qwell with --cors-origin",
                code="wrong_origin",
            )
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b"retry-after, x-qwell-ignored"),
            (b"vary", b"Origin"),
        ]


class _Bodies:
    """Bytes of large bodies that all requests together may hold; the loop's thread alone asks."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, size: int) -> bool:
        """False, and nothing changed, if there is no room."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give(self, size: int) -> None:
        self._left += size


class _Body:
    """`receive` within limits of size and time."""

    def __init__(self, receive: Receive, scope: Scope, settings: Settings, bodies: _Bodies) -> None:
        self._receive, self._scope, self._left = receive, scope, settings.max_body
        self._bodies, self._taken = bodies, 0
        self._settings, self._end = settings, monotonic() + settings.body_s
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:  # what comes now is the end of the connection, whenever it comes
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._end - monotonic())):
                message = await self._receive()
        except TimeoutError as error:
            text = f"the body took longer than {self._settings.body_s:g} s: send it faster"
            raise ApiError(408, text, code="timeout", headers={"Connection": "close"}) from error
        self._is_whole = not message.get("more_body", False)
        self._left -= len(message.get("body", b""))
        self._scope[BODY_READ] = self._settings.max_body - self._left
        if self._left < 0:
            if not self._is_whole:
                await self.drop()
            raise _too_large(self._settings.max_body)
        large = max(0, self._settings.max_body - self._left - _SMALL) - self._taken
        if large > 0:
            if not self._bodies.take(large):
                if not self._is_whole:
                    await self.drop()
                text = "too many large bodies are being answered: try again"
                headers = {**retry_after(1), "Connection": "close"}
                raise ApiError(503, text, code="bodies", headers=headers)
            self._taken += large
        return message

    def release(self) -> None:
        """The request is over."""
        self._bodies.give(self._taken)
        self._taken = 0

    async def drop(self) -> None:
        dropped, more = 0, True
        try:
            async with asyncio.timeout(_SPARE_S):
                while more and dropped < _SPARE:
                    message = await self._receive()
                    dropped += len(message.get("body", b""))
                    self._scope[BODY_READ] = self._settings.max_body - self._left + dropped
                    more = message.get("more_body", False)
        except TimeoutError:
            return


class _Sender:
    """`send` with the headers every response has, and an end to a client that does not read."""

    def __init__(
        self,
        send: Send,
        seconds: float,
        headers: list[tuple[bytes, bytes]],
        on_status: Callable[[int], None],
    ) -> None:
        self._send, self._seconds, self._headers = send, seconds, headers
        self._on_status = on_status
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            self._on_status(message["status"])
            known = {name for name, _ in message["headers"]}
            more = [pair for pair in _SAFE_HEADERS if pair[0] not in known]
            message = {**message, "headers": [*message["headers"], *more, *self._headers]}
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError as error:
            raise ConnectionAbortedError("the client takes nothing") from error

    async def preflight(self) -> None:
        headers = [
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"authorization, content-type, " + _OWN_HEADERS),
            (b"access-control-max-age", b"600"),
        ]
        await self({"type": "http.response.start", "status": 204, "headers": headers})
        await self({"type": "http.response.body", "body": b""})


def _check_length(headers: dict[bytes, bytes], most: int) -> None:
    given = headers.get(b"content-length", b"0")
    if b"content-length" in headers and b"transfer-encoding" in headers:
        # Two servers in a row might read two different requests.
        text = "the request has both Content-Length and Transfer-Encoding: send one of them"
        raise ApiError(400, text, headers={"Connection": "close"})
    if given.isdigit() and int(given) > most:
        raise _too_large(most)


def _too_large(most: int) -> ApiError:
    message = f"the body is larger than {most:,} bytes: send less"
    return ApiError(413, message, code="too_large", headers={"Connection": "close"})


def _host_name(host: str) -> str:
    """Without the port; an IPv6 address without its brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
