"""Progress and model text: what a terminal gets, what a pipe gets."""

from __future__ import annotations

import sys

import pytest

from qwell.cli import terminal
from qwell.cli.terminal import AnswerWriter, Progress

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """now = clock[0]"""
    now = [100.0]
    monkeypatch.setattr(terminal, "perf_counter", lambda: now[0])
    return now


def test_progress_on_a_terminal(
    clock: list[float], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress("reading")
    progress(1, 10)
    assert capsys.readouterr().err == "", "what is quick is not shown"
    clock[0] += 2
    progress(2, 10)
    assert capsys.readouterr().err == "\r\x1b[Kreading: 20 %, 8 s left"
    clock[0] += 0.01
    progress(3, 10)
    assert capsys.readouterr().err == "", "not redrawn more often than eyes can follow"
    progress.close()
    progress.close()
    assert capsys.readouterr().err == "\r\x1b[K"


def test_progress_in_a_pipe(clock: list[float], capsys: Capture) -> None:
    silent, told = Progress("reading"), Progress("packing", in_pipes=True)
    for second in range(12):
        clock[0] = 100.0 + second
        silent(second, 12)
        told(second, 12)
    told.close()
    assert capsys.readouterr().err == "packing: 41 %, 7 s left\npacking: 83 %, 2 s left\n"


def test_a_model_cannot_drive_the_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "a\x1b[2J\x07\x9b31m\r\tb\n"
    AnswerWriter().write(text)
    assert capsys.readouterr().out == text, "a pipe gets what the model said"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    AnswerWriter().write(text)
    assert capsys.readouterr().out == "a␛[2J␇\ufffd31m␍\tb\n"


def test_the_last_line_is_ended_once(capsys: Capture) -> None:
    for text, shown in (("a", "a\n"), ("a\n", "a\n"), ("", "")):
        writer = AnswerWriter()
        writer.write(text)
        writer.end()
        assert capsys.readouterr().out == shown
