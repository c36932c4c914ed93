"""Keys: read, hashed, compared, limited; and no path without one but those that tell nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from qwell.errors import QwellError, UsageError
from qwell.server.auth import Gate, new_key, read_keys
from qwell.server.errors import ApiError
from qwell.server.settings import Settings
from tests.server.live import error_of, live, says

KEY = "a-plain-key-of-24-letters"


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_keys_are_kept_as_hashes(tmp_path: Path) -> None:
    secret, line = new_key("ann")
    assert secret not in line
    tenants = read_keys(written(tmp_path / "k", "# who", "", line, f"{KEY} name=bob rpm=2"))
    assert [tenant.name for tenant in tenants] == ["ann", "bob"]
    assert KEY not in repr(tenants)
    gate = Gate(tenants)
    assert gate.tenant(f"Bearer {secret}").name == "ann"
    assert gate.tenant(f"bearer {KEY}").name == "bob"
    for wrong in (None, "", "Bearer", f"Bearer {KEY}x", KEY, f"Basic {KEY}", "Bearer \udcff"):
        with pytest.raises(ApiError) as caught:
            gate.tenant(wrong)
        assert caught.value.status == 401


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["# nothing"],
        ["short"],
        ["sha256:abc"],
        [f"{KEY} colour=red"],
        [f"{KEY} rpm=-1"],
        [KEY, KEY],
        [f"{KEY} name=x", f"{KEY}2 name=x"],
    ],
    ids=range(8),
)
def test_a_wrong_key_file_is_refused_without_telling_keys(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        read_keys(written(tmp_path / "keys", *lines))
    assert KEY not in str(caught.value)


def test_an_open_address_needs_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UsageError, match="api-key-file"):
            Settings(host=host)
        assert Settings(host=host, has_keys=True)
    assert Settings(host="::1")
    with pytest.raises(QwellError):
        Settings(cors_origins=("*",))


def test_every_path_but_signs_of_life_needs_a_key(tmp_path: Path) -> None:
    tenants = read_keys(written(tmp_path / "keys", f"{KEY} name=bob"))
    with live(says("Yes."), tenants=tenants) as server:
        closed = dict(server.app.document()["paths"])
        for path, how in closed.items():
            for method in how:
                reply = server.http.request(method, path.replace("{model}", "tiny"))
                if path in ("/health", "/ready"):
                    assert reply.status_code == 200
                else:
                    assert reply.status_code == 401, path
                    error_of(reply)
        for path in ("/nowhere", "/v1", "/index.html/%2e%2e", "/../auth.py"):
            assert server.http.get(path).status_code == 401
        assert server.http.get("/").status_code == 200
        server.http.headers["Authorization"] = f"Bearer {KEY}"
        assert server.chat().status_code == 200
        assert server.http.get("/v1/models").status_code == 200


def test_a_key_has_its_limits(tmp_path: Path) -> None:
    keys = written(tmp_path / "keys", f"{KEY} name=bob rpm=2", f"{KEY}2 name=ann concurrent=0")
    with live(says("Yes."), tenants=read_keys(keys)) as server:
        bob, ann = ({"Authorization": f"Bearer {KEY}{more}"} for more in ("", "2"))
        body = {"messages": [{"role": "user", "content": "hi"}]}
        path = "/v1/chat/completions"
        codes = [server.post(path, body, headers=bob).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        reply = server.post(path, body, headers=bob)
        assert 0 < int(reply.headers["retry-after"]) <= 60
        assert error_of(reply)["code"] == "rate_limit"
        assert error_of(server.post(path, body, headers=ann))["code"] == "concurrency_limit"


@pytest.mark.parametrize("asked", [False, True])
def test_prompts_are_logged_only_if_asked(asked: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Not even where a request fails."""
    caplog.set_level(logging.DEBUG)
    with live(says("Yes."), log_prompts=asked) as server:
        assert server.chat("a secret thing").status_code == 200
        assert server.chat("a secret thing", temperature=9).status_code == 400
        body = {"prompt": "a secret thing", "max_tokens": 1}
        assert server.post("/v1/completions", body).status_code == 200
        assert server.post("/tokenize", {"prompt": "a secret thing"}).status_code == 200
    assert ("secret" in caplog.text) == asked
