"""A fake hub over real HTTP, a clean environment for each test, and a tiny model to pull.

The server speaks Range and both hubs' listings; a test queues faults, each spent by one request.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from qwell.hub import download
from qwell.hub.catalogue import Entry, RemoteFile

DATA = random.Random(7).randbytes(300_000)
FILE = "tiny-q8_0.gguf"

Fault = Callable[["Handler", bytes], None]


class Hub(ThreadingHTTPServer):
    """Serves `files` (repository -> path -> bytes) as huggingface and as modelscope."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, dict[str, bytes]] = {"Org/Tiny": {FILE: DATA}}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str | None, str | None]] = []
        """(path, Range, Authorization) of every request."""
        self.listing_change: Callable[[dict], None] = lambda listing: None

    def handle_error(self, request: object, client_address: object) -> None:
        """A test that cuts connections needs no traceback."""

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path, headers = self.path.partition("?")[0], self.headers
        self.server.requests.append((path, headers.get("Range"), headers.get("Authorization")))
        listing = re.fullmatch(
            r"/api/(?:v1/)?models/([^/]+/[^/]+)/(revision/main|repo/files)", path
        )
        if listing and listing[1] in self.server.files:
            files = self.server.files[listing[1]]
            answer = hf_listing(files) if listing[2] == "revision/main" else ms_listing(files)
            self.server.listing_change(answer)
            self.reply(json.dumps(answer).encode())
            return
        named = re.fullmatch(r"(?:/models)?/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        body = self.server.files.get(named[1], {}).get(named[2]) if named else None
        if body is None:
            self.send_error(404)
        elif self.server.faults:
            self.server.faults.pop(0)(self, body)
        else:
            self.reply_range(body)

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Headers as keyword arguments, `_` for `-`; the body's true length unless given."""
        self.send_response(status)
        for name, value in ({"content_length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def reply_range(self, body: bytes) -> None:
        asked = self.headers.get("Range")
        if not asked:
            self.reply(body)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        told = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.reply(body[start:], 206, content_range=told)


def hf_listing(files: dict[str, bytes]) -> dict:
    """As huggingface answers: LFS files with SHA-256, small ones with git's blob hash alone."""
    siblings = []
    for path, body in files.items():
        blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        sibling: dict = {"rfilename": path, "size": len(body), "blobId": blob}
        if path.endswith((".gguf", ".safetensors")):
            sibling["lfs"] = {"sha256": sha256(body), "size": len(body)}
        siblings.append(sibling)
    return {"sha": "c0ffee", "siblings": siblings}


def ms_listing(files: dict[str, bytes]) -> dict:
    entries = [{"Type": "tree", "Path": "assets", "Size": 0}]
    for path, body in files.items():
        entries.append({"Type": "blob", "Path": path, "Size": len(body), "Sha256": sha256(body)})
    return {"Code": 200, "Data": {"Files": entries}}


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def status(code: int, **headers: str) -> Fault:
    return lambda handler, body: handler.reply(b"", code, **headers)


def cut(after: int) -> Fault:
    """Promises the whole body, sends so many bytes of what was asked and hangs up."""

    def fault(handler: Handler, body: bytes) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        told = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.send_response(206 if start else 200)
        handler.send_header("content-length", str(len(body) - start))
        handler.send_header("content-range", told)
        handler.end_headers()
        handler.wfile.write(body[start : start + after])
        handler.close_connection = True

    return fault


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder, with contents: to see that nothing changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh QWELL_HOME (not yet there), no network but what a test sets up, no waiting."""
    for name in ("QWELL_OFFLINE", "HF_HUB_OFFLINE", "QWELL_SOURCE", "HF_TOKEN", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    closed = "http://127.0.0.1:1"
    monkeypatch.setenv("HF_ENDPOINT", closed)
    monkeypatch.setenv("QWELL_MODELSCOPE_ENDPOINT", closed)
    monkeypatch.setenv("QWELL_HOME", str(tmp_path / "qwell"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(download, "BACKOFF_SECONDS", (0.01, 0.01, 0.01))
    return tmp_path / "qwell"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def entry() -> Entry:
    """A model whose one file is known beforehand, as in the catalogue."""
    known = RemoteFile(path=FILE, size=len(DATA), sha256=sha256(DATA))
    return Entry(name="tiny:q8_0", repo="Org/Tiny", tag="q8_0", is_official=True, files=(known,))
