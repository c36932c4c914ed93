"""The protocol, with a real process on the other side that has no engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from compare import make_work
from contest import contest, take_turn, tune
from peer import Peer, PeerError, Speed

ECHO = Path(__file__).with_name("echo.py")
ONE, MANY = make_work(1, 10, 4), make_work(2, 10, 4)


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Peer]:
    peer = Peer("echo", [sys.executable, str(ECHO)], tmp_path / "logs" / "echo.log")
    yield peer
    peer.close()


def test_a_peer_introduces_itself(echo: Peer):
    assert (echo.engine, echo.version) == ("echo", "1.0")
    assert echo.settings(1) == [{"prefill": 2.0, "decode": 4.0}]
    assert len(echo.settings(16)) == 3


def test_speed_counts_the_tokens_of_all_sequences(echo: Peer):
    setting = {"prefill": 2.0, "decode": 4.0}
    assert echo.measure(setting, ONE) == Speed(10 / 2, 4 / 4)
    assert echo.measure(setting, MANY) == Speed(20 / 2, 8 / 4)


def test_what_an_engine_prints_is_no_answer_and_lands_in_the_log(echo: Peer):
    echo.measure({"prefill": 1.0, "decode": 1.0}, ONE)
    assert "noise on stdout" in echo.log.read_text()


def test_a_setting_that_fails_is_one_line_and_the_peer_lives_on(echo: Peer):
    with pytest.raises(PeerError, match=r"^RuntimeError: two lines$"):
        echo.measure({"raises": True}, ONE)
    assert echo.measure({"prefill": 1.0, "decode": 1.0}, ONE) == Speed(10, 4)


def test_a_peer_that_ends_tells_its_last_words(echo: Peer):
    with pytest.raises(PeerError, match="code 3: no memory left"):
        echo.measure({"ends": True}, ONE)
    with pytest.raises(PeerError):
        echo.measure({"prefill": 1.0, "decode": 1.0}, ONE)


def test_a_peer_that_cannot_load_tells_its_last_words(tmp_path: Path):
    with pytest.raises(PeerError, match="code 1: cannot load"):
        Peer("echo", [sys.executable, str(ECHO), "dies"], tmp_path / "log")


def test_a_turn_takes_each_metric_under_its_best_setting(echo: Peer):
    tried = tune(echo, MANY, first_only=False)
    assert [t.error for t in tried] == ["RuntimeError: two lines", "", ""]
    assert take_turn(echo, MANY, tried) == Speed(20 / 1, 8 / 4)


def test_a_peer_that_fails_is_dropped_and_the_rest_goes_on(echo: Peer, tmp_path: Path):
    ending = Peer("ending", [sys.executable, str(ECHO), "ends"], tmp_path / "ending.log")
    failed: dict[str, str] = {}
    entries = contest(
        [(echo, "echo"), (ending, "echo")],
        MANY,
        2,
        first_only=False,
        fail=lambda name, error: failed.update({name: str(error)}),
    )
    assert [entry.name for entry in entries] == ["echo"]
    assert len(entries[0].rounds) == 2
    assert list(failed) == ["ending"]
