"""Who may ask, and how much: keys out of a file, kept and compared as hashes.

A line of the file is a key, or `sha256:` and the hash of one, then maybe `name=`, `rpm=` (requests
a minute), `concurrent=`, `priority=`. Empty lines and those that begin with # are skipped. A key is
random and long, so a plain SHA-256 of it cannot be turned back; short ones are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from qwell.errors import NotFoundError, UsageError
from qwell.server.errors import ApiError, retry_after

SHORTEST_KEY = 20
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """The holder of a key. None: no limit."""

    name: str
    digest: bytes
    rpm: int | None = None
    concurrent: int | None = None
    priority: int = 0


NOBODY = Tenant(name="", digest=b"")
"""Everybody, where there are no keys."""


def new_key(name: str) -> tuple[str, str]:
    """A fresh key, and the line for the key file that knows only its hash."""
    key = f"qw-{secrets.token_urlsafe(32)}"
    return key, f"sha256:{_digest(key).hex()} name={name}"


def read_keys(path: Path) -> tuple[Tenant, ...]:
    """The tenants of a key file. Raises NotFoundError, UsageError that name a line, never a key."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise NotFoundError(f"{path} cannot be read as text: check the key file") from error
    found = [
        _tenant(line.split(), f"{path} line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not found:
        raise UsageError(f"{path} has no key: make one with qwell key NAME")
    for what, values in (("key", [t.digest for t in found]), ("name", [t.name for t in found])):
        if len(set(values)) != len(values):
            raise UsageError(f"{path} has the same {what} twice: leave one out")
    return tuple(found)


def _tenant(words: Sequence[str], where: str) -> Tenant:
    key, numbers, name = words[0], {}, ""
    hashed = _HASH.fullmatch(key)
    if not hashed and (key.startswith("sha256:") or len(key) < SHORTEST_KEY):
        raise UsageError(
            f"{where} begins with no key: give at least {SHORTEST_KEY} characters, or sha256: and "
            "64 hexadecimal digits"
        )
    digest = bytes.fromhex(hashed[1]) if hashed else _digest(key)
    for word in words[1:]:
        option, _, value = word.partition("=")
        if option == "name" and value.isprintable() and value:
            name = value
        elif option in ("rpm", "concurrent", "priority") and re.fullmatch(r"[0-9]{1,6}", value):
            numbers[option] = int(value)
        else:
            raise UsageError(
                f"{where}: {word[:40]!r} is none of name=, rpm=, concurrent=, priority="
            )
    return Tenant(name=name or digest.hex()[:12], digest=digest, **numbers)


class Gate:
    """Knows the keys and how much each is using. Threads may share it."""

    def __init__(self, tenants: Sequence[Tenant]) -> None:
        self._tenants = tuple(tenants)
        self._running = dict.fromkeys((tenant.name for tenant in tenants), 0)
        self._times: dict[str, deque[float]] = {tenant.name: deque() for tenant in tenants}
        self._lock = threading.Lock()
        self.refusals: Counter[str] = Counter()
        """Requests beyond a key's limits, by reason."""

    def tenant(self, authorization: str | None) -> Tenant:
        """Who sends this Authorization header. Raises ApiError 401."""
        if not self._tenants:
            return NOBODY
        scheme, _, key = (authorization or "").partition(" ")
        digest = _digest(key.strip())
        found = None
        for tenant in self._tenants:  # all of them: the time taken tells nothing
            if hmac.compare_digest(tenant.digest, digest):
                found = tenant
        if found is None or scheme.lower() != "bearer":
            raise ApiError(
                401,
                "this server needs a key: send the header Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found

    @contextmanager
    def use(self, tenant: Tenant) -> Iterator[None]:
        """While one request of the tenant runs. Raises ApiError 429 beyond the key's limits."""
        if tenant is NOBODY:
            yield
            return
        with self._lock:
            self._check(tenant)
            self._running[tenant.name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[tenant.name] -= 1

    def _check(self, tenant: Tenant) -> None:
        times, now = self._times[tenant.name], monotonic()
        while times and times[0] <= now - 60:
            times.popleft()
        if tenant.rpm is not None and len(times) >= tenant.rpm:
            wait = times[0] + 60 - now if times else 60.0
            message = f"this key may send {tenant.rpm} requests a minute: wait {wait:.0f} s"
            self.refusals["rate_limit"] += 1
            raise ApiError(429, message, code="rate_limit", headers=retry_after(wait))
        if tenant.concurrent is not None and self._running[tenant.name] >= tenant.concurrent:
            self.refusals["concurrency_limit"] += 1
            message = (
                f"this key may run {tenant.concurrent} requests at a time: wait for one to end"
            )
            raise ApiError(429, message, code="concurrency_limit", headers=retry_after(1))
        if tenant.rpm is not None:
            times.append(now)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
