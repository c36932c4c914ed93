"""`qwell tokenize`: the ids of the tokenizer in three forms, on the tiny byte tokenizer."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from qwell.cli.tokenize import tokenize
from qwell.errors import TextError, UsageError


def test_a_line_a_token(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenize(str(model), "hé\n")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split() for line in lines] == [
        ["71", "'h'"],
        ["127", r"b'\xc3'"],
        ["102", r"b'\xa9'"],
        ["198", r"'\n'"],
    ]
    assert err == "4 tokens\n"


def test_ids(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenize(str(model), "<|im_end|>", ids=True, special=True)
    assert capsys.readouterr().out == "258\n"
    tokenize(str(model), "<|im_end|>", ids=True)
    assert capsys.readouterr().out.split() == [str(ord(c) - 33) for c in "<|im_end|>"]


def test_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenize(str(model), "a<|im_end|>", special=True, as_json=True)
    tokens = [{"id": 64, "bytes": [97]}, {"id": 258, "bytes": list(b"<|im_end|>")}]
    assert json.loads(capsys.readouterr().out) == {
        "model": str(model),
        "count": 2,
        "tokens": tokens,
    }


def test_colours_on_a_terminal(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    tokenize(str(model), "a[b]\x1b[31m<|im_end|>", special=True)
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert r"'\x1b'" in out
    assert "'<|im_end|>'" in out


def test_stdin(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab")))
    tokenize(str(model), "-", ids=True)
    assert capsys.readouterr().out == "64 65\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff")))
    with pytest.raises(TextError, match="byte 1"):
        tokenize(str(model), "-")


def test_nothing_to_do(model: Path) -> None:
    with pytest.raises(UsageError, match="empty"):
        tokenize(str(model), "")
