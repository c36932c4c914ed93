"""What hostile or broken clients send: refused in one line, within limits; the next is served."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from statistics import median

import httpx2 as httpx
import pytest

from tests.server.live import Live, error_of, live, random_llm, says, slow_llm

CHAT = "/v1/chat/completions"
GOOD = b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "temperature": 0}'


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(says("Yes."), head_s=0.4, body_s=0.6, max_body=1 << 20, max_connections=40) as found:
        yield found


@pytest.fixture(autouse=True)
def unharmed(server: Live) -> Iterator[None]:
    """After every attack the server answers as before."""
    yield
    assert server.chat().json()["choices"][0]["message"]["content"] == "Yes."


def send(server: Live, body: bytes, **headers: str) -> httpx.Response:
    return server.http.post(CHAT, content=body, headers=headers)


def with_field(text: str) -> bytes:
    return GOOD[:-1] + b", " + text.encode() + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b'"text"',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"hi", b"\xc3\x28"),
        GOOD.replace(b"hi", b"\\ud800"),
        GOOD.replace(b"hi", b"\x01"),
        with_field('"temperature": 1'),
        with_field('"top_p": NaN'),
        with_field('"top_p": Infinity'),
        with_field('"top_p": 1e999'),
        with_field(f'"seed": {"9" * 5000}'),
        with_field('"x": ' + "[" * 100_000 + "]" * 100_000),
        with_field('"x": ' + '{"a":' * 100_000 + "1" + "}" * 100_000),
        with_field('"x": [' + "[]," * 200_000 + "[]]"),
        with_field('"x": "' + '\\"' * 300_000),
        b"[" * 500_000,
    ],
    ids=range(21),
)
def test_bodies_that_are_no_request(server: Live, body: bytes) -> None:
    begin = time.monotonic()
    reply = send(server, body)
    assert reply.status_code == 400
    error_of(reply)
    assert time.monotonic() - begin < 3


def test_a_name_with_a_lone_surrogate_is_told_in_valid_json(server: Live) -> None:
    reply = send(server, with_field('"\\ud800\\n": 1'), **{"X-Qwell-Strict": "1"})
    assert reply.status_code == 400
    error_of(reply)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_body_is_refused_and_the_sender_hears_it(server: Live, chunked: bool) -> None:
    block = b"x" * (1 << 20)
    body = (block for _ in range(50)) if chunked else block * 50
    reply = server.http.post(CHAT, content=body)
    assert reply.status_code == 413
    assert error_of(reply)["code"] == "too_large"


def test_a_slow_head_ends(server: Live) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        begin = time.monotonic()
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
        found = b""
        try:
            for _ in range(100):  # a byte now and then does not renew the time
                time.sleep(0.05)
                sock.sendall(b"X")
        except OSError:
            pass
        assert time.monotonic() - begin < 3
        try:
            found = sock.recv(65536)
        except ConnectionResetError:
            found = b"HTTP/1.1 408"
        assert found.startswith(b"HTTP/1.1 408")


def test_a_connection_that_says_nothing_ends(server: Live) -> None:
    begin = time.monotonic()
    assert server.raw(b"").startswith(b"HTTP/1.1 408")
    assert time.monotonic() - begin < 3


def test_a_slow_second_head_ends_too(server: Live) -> None:
    first = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    begin = time.monotonic()
    found = server.raw(first + b"GET /health HT")
    assert found.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in found
    assert time.monotonic() - begin < 3


def test_a_slow_body_ends(server: Live) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"
    begin = time.monotonic()
    found = server.raw(head)
    assert found.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%2e%2e/%2e%2e/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        b"GET http://localhost:99999999/ HTTP/1.1\r\nHost: localhost:99999999\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\n\r\n",
    ],
    ids=range(15),
)
def test_bytes_that_are_no_request(server: Live, data: bytes) -> None:
    found = server.raw(data, seconds=2)
    status = int(found.split()[1])
    assert status in (200, 400, 403, 404, 405), found


def test_two_lengths_of_one_body_are_refused(server: Live) -> None:
    found = server.raw(
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    )
    assert found.startswith(b"HTTP/1.1 400") and b"send one of them" in found


def test_chunks_of_single_bytes_are_refused(server: Live) -> None:
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    found = server.raw(head + b"1\r\n \r\n" * 100_000 + b"0\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 400") and b"too small" in found
    text = json.dumps({"prompt": "x" * 60_000}).encode()
    parts = [text[at : at + 300] for at in range(0, len(text), 300)]
    assert server.http.post("/tokenize", content=iter(parts)).status_code == 200


def test_a_grammar_that_fails_while_it_is_written_is_the_clients_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qwell.engine.grammar._REPLY_SECONDS", 0.0)
    monkeypatch.setattr("qwell.engine.grammar._TOKEN_SECONDS", 0.0)
    with live(random_llm()) as server:
        body = {"prompt": "a", "max_tokens": 9, "structured_outputs": {"regex": "[ab]{99}"}}
        reply = server.post("/v1/completions", body)
        assert reply.status_code == 400 and "too long" in error_of(reply)["message"]
        told = server.post("/v1/completions", body | {"stream": True}).text
        assert "too long" in told and told.endswith("data: [DONE]\n\n")
        assert server.chat(max_tokens=1).status_code == 200


@pytest.mark.parametrize(
    "path, body",
    [
        (CHAT, {"n": 128, "logprobs": True, "top_logprobs": 20}),
        ("/v1/completions", {"prompt": "a", "n": 128, "logprobs": 20, "max_tokens": 4000}),
        ("/v1/completions", {"prompt": ["a" * 2000] * 64, "logprobs": 20, "echo": True}),
    ],
)
def test_more_log_probabilities_than_memory_is_planned_for(
    server: Live, path: str, body: dict[str, object]
) -> None:
    messages = {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {}
    reply = server.post(path, messages | body)
    assert reply.status_code == 400 and error_of(reply)["param"] == "logprobs"
    assert (
        server.post(
            path,
            messages | body | {"logprobs": None, "max_tokens": 1, "n": 1, "top_logprobs": None},
        ).status_code
        == 200
    )


def test_names_that_are_there_twice_are_found_at_once(server: Live) -> None:
    names = ", ".join(f'"{i}": 1' for i in range(60_000))
    begin = time.monotonic()
    reply = send(server, with_field(f'"x": {{{names}, "59999": 2}}'))
    assert reply.status_code == 400 and "'59999' is twice" in error_of(reply)["message"]
    assert time.monotonic() - begin < 2


def test_large_bodies_are_held_within_a_bound() -> None:
    """Small ones are taken all the same, and room comes back when an answer has ended."""
    large = json.dumps({"prompt": "a", "metadata": {"x": "y" * 200_000}}).encode()
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with live(says("Yes."), max_bodies=400_000) as server:
        held = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(2)]
        for sock in held:
            sock.sendall(head % len(large) + large[:-1])
        time.sleep(0.3)
        refused = server.http.post("/tokenize", content=large)
        assert refused.status_code == 503 and error_of(refused)["code"] == "bodies"
        assert int(refused.headers["retry-after"]) >= 1
        assert server.post("/tokenize", {"prompt": "x" * 60_000}).status_code == 200
        for sock in held:
            sock.sendall(large[-1:])
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
            sock.close()
        assert server.http.post("/tokenize", content=large).status_code == 200


def test_a_half_closed_connection_is_let_go(server: Live) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    server.raw(head % (CHAT.encode(), len(GOOD)) + GOOD[:20], half_close=True)
    server.raw(head % (CHAT.encode(), len(GOOD)) + GOOD, half_close=True)
    assert server.idle()


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "8.8.8.8"])
def test_a_foreign_host_is_refused(server: Live, host: str) -> None:
    reply = server.http.get("/v1/models", headers={"Host": host})
    assert reply.status_code == 403
    assert error_of(reply)["code"] == "wrong_host"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "file://", "http://localhost:1"])
def test_a_foreign_page_is_refused(server: Live, origin: str) -> None:
    reply = send(server, GOOD, Origin=origin)
    assert reply.status_code == 403
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    preflight = server.http.request("OPTIONS", CHAT, headers=asked)
    assert preflight.status_code == 403
    assert "access-control-allow-origin" not in preflight.headers


def test_our_own_page_may_call(server: Live) -> None:
    assert send(server, GOOD, Origin=server.url).status_code == 200


def test_an_answer_does_not_wait_for_the_client_to_acknowledge_its_head(server: Live) -> None:
    took = []
    for _ in range(15):
        begin = time.monotonic()
        assert server.post("/tokenize", {"prompt": "x"}).status_code == 200
        took.append(time.monotonic() - begin)
    assert median(took) < 0.03, took


def test_too_many_connections_are_refused(server: Live) -> None:
    socks = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(45)]
    try:
        assert socks[-1].recv(100).startswith(b"HTTP/1.1 503")
    finally:
        for sock in socks:
            sock.close()
    time.sleep(0.2)


def test_a_page_that_is_named_may_call() -> None:
    with live(says("Yes."), cors_origins=("http://app.example",)) as server:
        asked = {"Origin": "http://app.example", "Access-Control-Request-Method": "POST"}
        preflight = server.http.request("OPTIONS", CHAT, headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "http://app.example"
        reply = send(server, GOOD, Origin="http://app.example")
        assert reply.headers["access-control-allow-origin"] == "http://app.example"
        assert reply.headers["vary"] == "Origin"
        assert send(server, b"{", Origin="http://app.example").headers["vary"] == "Origin"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_its_request(stream: bool) -> None:
    with live(slow_llm(), keep_alive_s=1) as server:
        body = json.loads(GOOD) | {"stream": stream, "max_tokens": 3000}
        text = json.dumps(body).encode()
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
            sock.sendall(head % (CHAT.encode(), len(text)) + text)
            end = time.monotonic() + 5
            while not server.app.served.service.snapshot().running and time.monotonic() < end:
                time.sleep(0.01)
            assert server.app.served.service.snapshot().running == 1
        assert server.idle(2)


def test_a_client_that_does_not_read_is_let_go() -> None:
    with live(random_llm(), write_s=0.3) as server:
        body = json.loads(GOOD) | {"stream": True, "max_tokens": 400, "logprobs": True}
        body |= {"top_logprobs": 20, "n": 8, "ignore_eos": True}
        text = json.dumps(body).encode()
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        with sock:
            sock.sendall(head % (CHAT.encode(), len(text)) + text)
            end = time.monotonic() + 20
            while not server.app.served.service.snapshot().running and time.monotonic() < end:
                time.sleep(0.01)
            assert server.idle(20)


def test_an_unknown_path_and_a_wrong_method_are_told_apart(server: Live) -> None:
    for method, path, status in (
        ("POST", "/v1/embeddings", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models/tiny", 405),
        ("DELETE", "/", 405),
        ("HEAD", "/", 200),
    ):
        assert server.http.request(method, path).status_code == status, (method, path)
