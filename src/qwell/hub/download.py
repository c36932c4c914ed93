"""HTTP for files too large to start over: Range resume, retries, safe redirects, typed errors.

It knows URLs and PartFiles, not hubs. Certificates, proxies and HTTP itself are httpx2's, the
client huggingface_hub stands on.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin, urlsplit

from qwell.errors import DownloadError, NotFoundError
from qwell.hub.part import PartFile

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""Waits between tries that brought nothing; a try that brought bytes starts the row anew."""
_MAX_WAIT_SECONDS = 30.0
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_MAX_REDIRECTS = 8
_MAX_LISTING_BYTES = 32 << 20


class Reporter:
    """Told what happens; this one keeps silent. The command line brings its own."""

    def note(self, text: str) -> None:
        """One line worth saying: a source tried, a wait for another process."""

    def begin(self, name: str, total_bytes: int, done_bytes: int) -> None:
        """A source is about to deliver `name`; some bytes may be here already."""

    def advance(self, done_bytes: int) -> None:
        """So many bytes of the total are here now."""


def is_offline() -> bool:
    """QWELL_OFFLINE or HF_HUB_OFFLINE forbids the network."""
    names = ("QWELL_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").lower() in {"1", "true", "yes", "on"} for name in names)


class _TransientError(Exception):
    """Worth another try, after `wait` seconds if the server named a time."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class Http:
    """A connection to one hub. `headers` (a token, say) go to its own host and nowhere else."""

    def __init__(self, endpoint: str, headers: Mapping[str, str] | None = None) -> None:
        import httpx2

        _probe(endpoint)
        self._lib, self._endpoint, self._headers = httpx2, endpoint, dict(headers or {})
        self._was_reached = False
        timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        self._client = httpx2.Client(
            timeout=timeout, headers={"user-agent": "qwell", "accept-encoding": "identity"}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get_json(self, url: str) -> Any:
        """The JSON document at `url`. Raises DownloadError, or NotFoundError for a 404."""

        def read() -> Any:
            with self._get(url, {}) as response:
                body = bytearray()
                for chunk in response.iter_raw():
                    body += chunk
                    if len(body) > _MAX_LISTING_BYTES:
                        raise DownloadError(f"{_host(url)} sent an endless listing")
            return _parse(bytes(body), url)

        return _retrying(read, lambda: 0)

    def download(self, url: str, part: PartFile, on_bytes: Callable[[int], None]) -> None:
        """Appends to `part` what it misses of the file at `url`, over as many requests as it
        takes; tells `on_bytes` the position. Raises DownloadError when the server stays away,
        refuses, or sends another length; StorageError from the disk."""
        _retrying(lambda: self._download_once(url, part, on_bytes), lambda: part.position)

    def _download_once(self, url: str, part: PartFile, on_bytes: Callable[[int], None]) -> None:
        size = part.want.size
        if part.position == size:
            return
        ask = {"range": f"bytes={part.position}-"} if part.position else {}
        with self._get(url, ask) as response:
            if not _continues(response, part):
                part.rewind(0)
                if response.status_code != 200:
                    raise _TransientError(f"{_host(url)} did not continue where asked")
            _check_length(response, part)
            # No chunk size: what httpx2 gathers towards one is lost when the connection is cut.
            for chunk in response.iter_raw():
                if part.position + len(chunk) > size:
                    part.rewind(0)
                    raise DownloadError(f"{part.want.path} is longer than {size:,} bytes")
                part.write(chunk)
                on_bytes(part.position)
        if part.position < size:
            raise _TransientError(f"the connection was cut at {part.position:,} of {size:,} bytes")

    @contextmanager
    def _get(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """An open 2xx or 416 response, redirects followed."""
        try:
            with self._follow(url, headers) as response:
                _check_status(response, url)
                yield response
        except self._lib.TransportError as error:
            # Also raised by the caller's loop over the body, which runs inside this block.
            reason = f"{_host(url)}: {str(error) or type(error).__name__}"
            if not self._was_reached:
                raise DownloadError(f"cannot reach {reason}") from error
            raise _TransientError(reason) from error
        except self._lib.InvalidURL as error:
            raise DownloadError(f"{_host(url)} redirects to no valid address") from error

    @contextmanager
    def _follow(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        for _ in range(_MAX_REDIRECTS):
            own = self._headers if _origin(url) == _origin(self._endpoint) else {}
            request = self._client.build_request("GET", url, headers={**headers, **own})
            response = self._client.send(request, stream=True)
            self._was_reached = True
            try:
                if not response.has_redirect_location:
                    yield response
                    return
            finally:
                response.close()
            url = _next_url(url, response.headers["location"])
        raise DownloadError(f"{_host(url)} redirects in a circle")


def _retrying(attempt: Callable[[], Any], progress: Callable[[], int]) -> Any:
    failures = 0
    while True:
        before = progress()
        try:
            return attempt()
        except _TransientError as error:
            failures = 1 if progress() > before else failures + 1
            if failures > len(BACKOFF_SECONDS):
                raise DownloadError(f"{error}; gave up after {failures} tries") from error
            time.sleep(min(max(BACKOFF_SECONDS[failures - 1], error.wait), _MAX_WAIT_SECONDS))


def _probe(endpoint: str) -> None:
    """Raises DownloadError if nothing answers within CONNECT_SECONDS. A thread bounds what no
    socket timeout does: name look-up, and a name with many dead addresses."""
    from urllib.request import getproxies

    try:
        parts = urlsplit(endpoint)
        address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    except ValueError as error:
        raise DownloadError(f"{endpoint!r} is not a web address ({error})") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise DownloadError(f"{endpoint!r} is not a web address (https://HOST)")
    if getproxies().get(parts.scheme):
        return  # the proxy looks the name up; httpx2 will say if it cannot
    outcome: list[str] = [f"no answer within {CONNECT_SECONDS:g} s"]

    def connect() -> None:
        try:
            socket.create_connection(address, CONNECT_SECONDS).close()
            outcome[0] = ""
        except (OSError, UnicodeError) as error:
            outcome[0] = getattr(error, "strerror", None) or str(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if outcome[0]:
        raise DownloadError(f"cannot reach {parts.netloc} ({outcome[0]})")


def _check_status(response: httpx2.Response, url: str) -> None:
    status, host = response.status_code, _host(url)
    if status in {200, 206, 416}:
        return
    if status in _TRANSIENT:
        wait = response.headers.get("retry-after", "")
        raise _TransientError(f"{host} answers HTTP {status}", float(wait) if wait.isdigit() else 0)
    if status in {401, 403}:
        raise DownloadError(
            f"{host} answers HTTP {status}: the repository does not exist, or is private or gated; "
            "check the name, or for huggingface set HF_TOKEN to a token that may read it"
        )
    if status == 404:
        raise NotFoundError(f"{host} has no {urlsplit(url).path} (HTTP 404)")
    raise DownloadError(f"{host} answers HTTP {status}")


def _continues(response: httpx2.Response, part: PartFile) -> bool:
    """Whether the body starts at the part's position (a server may ignore Range)."""
    if response.status_code != 206:
        return response.status_code == 200 and part.position == 0
    start = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return start == str(part.position)


def _check_length(response: httpx2.Response, part: PartFile) -> None:
    told = response.headers.get("content-length")
    if told is not None and int(told) != part.want.size - part.position:
        total = part.position + int(told)
        raise DownloadError(
            f"{part.want.path} has {total:,} bytes instead of {part.want.size:,}: "
            "the file at the source is another one"
        )


def _next_url(url: str, location: str) -> str:
    """Where a redirect leads: anywhere over https, without it only within the same host."""
    try:
        target = urljoin(url, location)
        is_safe = urlsplit(target).scheme == "https" or _origin(target) == _origin(url)
    except ValueError as error:
        raise DownloadError(f"{_host(url)} redirects to no valid address") from error
    if not is_safe:
        raise DownloadError(f"{_host(url)} redirects to {_host(target)} without https: refused")
    return target


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _parse(body: bytes, url: str) -> Any:
    import json

    try:
        return json.loads(body)
    except ValueError as error:
        raise DownloadError(f"{_host(url)} sent a listing that is not JSON") from error
