"""A real server on a free port, in a thread, over tiny models; and clients for it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx

from qwell.engine.jobs import Limits
from qwell.engine.llm import LLM
from qwell.engine.service import Service
from qwell.server.app import App
from qwell.server.auth import Gate, Tenant
from qwell.server.serve import Server, listen
from qwell.server.served import Served
from qwell.server.settings import Settings
from qwell.text.tokenizer import Tokenizer
from qwell.text.vocabulary import Vocabulary
from tests.engine.tiny import EOS, FakeBackend, Rowwise, Scripted, config, make_llm

NAMES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>")
_SPECIAL = NAMES[:3]


def chat_tokenizer() -> Tokenizer:
    """The tokens of tests.engine.tiny at their places, and the rest of Qwen's that matter."""
    from tests.engine.tiny import MERGES

    added = {text: 262 + i for i, text in enumerate((*NAMES, *FIM))}
    return Tokenizer(Vocabulary(MERGES, added, frozenset(added[t] for t in _SPECIAL), EOS))


def says(*texts: str, seen: list[str] | None = None) -> LLM:
    """A model whose n-th reply to a chat is the n-th text (the last one again and again): it
    finds where its turn began by the last <|im_start|>assistant line. `seen` gets its prompts."""
    tokenizer = chat_tokenizer()
    start = tokenizer.encode("<|im_start|>assistant\n", allow_special=True)
    scripts = [tokenizer.encode(text, allow_special=True) for text in texts]

    def next_id(known: list[int]) -> int:
        starts = [i for i in range(len(known)) if known[i : i + len(start)] == start]
        at = len(known) - starts[-1] - len(start) if starts else 0
        if seen is not None and at == 0:
            seen.append(tokenizer.decode(known))
        script = scripts[min(len(starts) - 1, len(scripts) - 1)] if starts else []
        return script[at] if at < len(script) else EOS

    return make_llm(Scripted(next_id), tokenizer=tokenizer, max_context=4096, max_seqs=16)


def random_llm(max_context: int = 512) -> LLM:
    """Random weights: long replies of any bytes."""
    return make_llm(Rowwise(), tokenizer=chat_tokenizer(), max_context=max_context, max_seqs=16)


class Slow(FakeBackend):
    """A back end that takes its time for every step."""

    def __init__(self, seconds: float, token: int = 70) -> None:
        self._inner, self._seconds = Scripted(lambda known: token), seconds
        self.config = config()

    def new_kv(self, num_pages: int) -> Any:
        return self._inner.new_kv(num_pages)

    def step(self, batch: Any) -> Any:
        time.sleep(self._seconds)
        return self._inner.step(batch)


def slow_llm(seconds: float = 0.01) -> LLM:
    return make_llm(Slow(seconds), tokenizer=chat_tokenizer(), max_context=4096, max_seqs=16)


class Live:
    def __init__(self, app: App, server: Server, port: int, thread: threading.Thread) -> None:
        self.app, self.server, self.port, self.thread = app, server, port, thread
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def post(self, path: str, body: Any, **how: Any) -> httpx.Response:
        return self.http.post(path, json=body, **how)

    def chat(self, text: str = "hi", **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        return self.post("/v1/chat/completions", {"messages": messages, **fields})

    def events(self, path: str, body: Any) -> list[Any]:
        """The chunks of a stream, [DONE] checked and taken off."""
        reply = self.post(path, {**body, "stream": True})
        assert reply.status_code == 200, reply.text
        blocks = [block for block in reply.text.split("\n\n") if block]
        lines = [block.removeprefix("data: ") for block in blocks if not block.startswith(":")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    def raw(self, data: bytes, *, seconds: float = 5, half_close: bool = False) -> bytes:
        """What the server says to these bytes before it closes, or in so many seconds."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as sock:
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            found = b""
            try:
                while part := sock.recv(65536):
                    found += part
            except (TimeoutError, ConnectionResetError):
                pass
            return found

    def idle(self, seconds: float = 5) -> bool:
        """Whether nothing runs any more, within so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = self.app.served.service.snapshot()
            if not now.running and not now.queued:
                return True
            time.sleep(0.01)
        return False


@contextmanager
def live(
    llm: LLM,
    *,
    limits: Limits | None = None,
    tenants: tuple[Tenant, ...] = (),
    **settings: Any,
) -> Iterator[Live]:
    """Starts and stops a server. `settings` are those of Settings."""
    given = Settings(**{"port": 0, "has_keys": bool(tenants), **settings})
    sock = listen(given)
    service = Service(llm, limits or Limits())
    app = App(Served(llm, service, given), Gate(tenants))
    server = Server(app, sock, lambda text: None)
    thread = threading.Thread(target=server.run_here, daemon=True)
    thread.start()
    found = Live(app, server, sock.getsockname()[1], thread)
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield found
    finally:
        found.http.close()
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive(), "the server did not end"


def error_of(reply: httpx.Response) -> dict[str, Any]:
    """The error object of a refusal, checked for its shape."""
    assert reply.headers["content-type"] == "application/json", reply.text
    body = reply.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    assert "\n" not in error["message"]
    return error
