"""How a server behaves: plain values, made from the options of `qwell serve`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from qwell.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Times in seconds, sizes in bytes. Raises UsageError for what would not be safe."""

    host: str = "127.0.0.1"
    port: int = 8000
    has_keys: bool = False
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call; '*' for any."""
    allowed_hosts: tuple[str, ...] = ()
    """Names in the Host header beside those that are plainly this machine's."""
    strict: bool = False
    """Unknown fields are refused."""
    log_prompts: bool = False
    max_body: int = 8 << 20
    max_bodies: int = 64 << 20
    """Held at a time by all requests together, each but for its first 64 KiB; a body is held until
    its answer has ended."""
    max_head: int = 32 << 10
    max_connections: int = 512
    head_s: float = 10.0
    """From the first byte of a request (or the opening of a connection) to the end of its head."""
    body_s: float = 30.0
    write_s: float = 30.0
    """A client that takes nothing for so long has left."""
    keep_alive_s: float = 15.0
    """Between two signs of life of a stream; also how long an idle connection is kept."""
    grace_s: float = 30.0
    """Running replies get so long when the server is told to end."""

    def __post_init__(self) -> None:
        if not self.has_keys and not is_loopback(self.host):
            raise UsageError(
                f"--host {self.host} lets other machines in: give --api-key-file, or leave it at "
                "127.0.0.1"
            )
        if not self.has_keys and "*" in self.cors_origins:
            raise UsageError("--cors-origin '*' lets every web page in: give --api-key-file too")
        for origin in self.cors_origins:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise UsageError(f"--cors-origin {origin} is no origin: give http://HOST[:PORT]")


def is_loopback(host: str) -> bool:
    """Whether an address or name can only mean this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
