"""`qwell train inspect`: what is learnt is shown as such, in brackets, lines, colours and JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from qwell.cli.options import Parser
from qwell.cli.train_inspect import OPTIONS, inspect
from qwell.errors import DataError, UsageError
from tests.data.small import write_lines


def run(*argv: str) -> None:
    """As the dispatcher does."""
    inspect(**Parser("train inspect", "", OPTIONS["inspect"]).parse(list(argv)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    def chat(answer: str) -> dict[str, Any]:
        turns = [{"role": "user", "content": "hé"}, {"role": "assistant", "content": answer}]
        return {"messages": turns}

    return write_lines(tmp_path / "chats.jsonl", [chat("one"), chat("two")])


def test_what_is_learnt_stands_in_brackets(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(str(data), "--model", str(model))
    out, err = capsys.readouterr()
    assert f"{data}:1: 27 tokens, 4 learnt (15%)\n" in out
    assert "<|im_start|>user\nhé<|im_end|>\n<|im_start|>assistant\n[[one<|im_end|>]]\n" in out
    assert "[[two<|im_end|>]]" in out
    assert err == f"format: messages\n2 documents in {data}\n"


def test_lines_and_json(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(str(data), "--model", str(model), "--first", "2", "--count", "1", "--tokens")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["257", "-", "'<|im_start|>'"] in lines
    assert ["127", "-", r"b'\xc3'"] in lines
    assert ["83", "learnt", "'t'"] in lines
    assert ["258", "learnt", "'<|im_end|>'"] in lines
    run(str(data), "--model", str(model), "--count", "1", "--json")
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    learnt = bytes(b for t in found["tokens"] if t["learnt"] for b in t["bytes"])
    assert learnt == b"one<|im_end|>"
    assert found["learnt"] == 4
    assert [t["id"] for t in found["tokens"] if t["control"]] == [257, 258, 257, 258]


def test_colours_on_a_terminal(
    model: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    run(str(data), "--model", str(model), "--count", "1")
    out = capsys.readouterr().out
    assert "[[" not in out
    assert "42mo\x1b" in out or "102mo\x1b" in out, "a learnt token is green"
    assert "35m<|im_start|>\x1b" in out, "a control token is magenta"
    assert "45m<|im_end|>\x1b" in out, "a learnt control token stands on magenta"
    assert "⏎" in out


def test_texts_and_other_templates(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.txt").write_text("ab")
    run(str(tmp_path / "t.txt"), "--model", str(model), "--raw")
    assert "a[[b<|endoftext|>]]" in capsys.readouterr().out
    other = tmp_path / "t.jinja"
    other.write_text("{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ '\n' }}{% endfor %}"
                     "{{ 'assistant:' if add_generation_prompt }}")  # fmt: skip
    run(str(data), "--model", str(model), "--template", str(other), "--count", "1")
    assert "user:hé\nassistant:[[one]]\n" in capsys.readouterr().out


def test_faults_are_told(model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--first 9 is behind the last of 2"):
        run(str(data), "--model", str(model), "--first", "9")
    with pytest.raises(UsageError, match="--model"):
        run(str(data))
    write_lines(tmp_path / "b.jsonl", [{"prompt": "x"}])
    with pytest.raises(DataError, match=r"b\.jsonl:1: is no conversation .* keys: prompt"):
        run(str(tmp_path / "b.jsonl"), "--model", str(model))
