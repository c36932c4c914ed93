"""The log of a server: a line for each answer, and no word of what was said."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import pytest

from qwell.server.auth import new_key, read_keys
from qwell.server.serve import tell
from tests.server.live import live, random_llm, says, slow_llm

COUNTS = r"\d+ prompt tokens, 0 of them cached; %s reply tokens; %s; \d+\.\d\d s"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "qwell.server"]


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qwell.server")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer(stream: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key, line = new_key("ann")
    file = tmp_path / "keys"
    file.write_text(line)
    with live(says("Yes."), tenants=read_keys(file)) as server:
        reply = server.post(
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "hi"}], "stream": stream},
            headers={"Authorization": f"Bearer {key}"},
        )
        assert reply.status_code == 200
    (line,) = lines(caplog)
    assert re.fullmatch(r"chatcmpl-\w+ ann: " + COUNTS % ("[1-9]", "stop"), line)


def test_several_replies_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with live(random_llm()) as server:
        body = {"prompt": ["a", "b"], "max_tokens": 3, "temperature": 0}
        assert server.post("/v1/completions", body).status_code == 200
    (line,) = lines(caplog)
    assert re.fullmatch(r"cmpl-\w+ -: " + COUNTS % ("6", "length"), line)


def test_a_client_that_leaves(caplog: pytest.LogCaptureFixture) -> None:
    with live(slow_llm()) as server:
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        with server.http.stream("POST", "/v1/chat/completions", json=body) as reply:
            next(reply.iter_lines())
        end = time.monotonic() + 5
        while not lines(caplog) and time.monotonic() < end:
            time.sleep(0.01)
    (line,) = lines(caplog)
    assert re.fullmatch(r"chatcmpl-\w+ -: " + COUNTS % ("0", "not finished"), line)


def test_a_line_goes_to_stderr_whatever_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a server that was started without one, 2 is the socket of a client."""
    with (tmp_path / "err").open("w") as err:
        monkeypatch.setattr("sys.stderr", err)
        tell("half a character \ud800 " + "x" * 10_000)
    assert (tmp_path / "err").read_text() == "half a character \\ud800 " + "x" * 10_000 + "\n"
    assert capfd.readouterr() == ("", "")
