"""`qwell run` on a tiny model: what stdout gets, what stderr gets, what the JSON says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import qwell
from tests.cli.tiny import Run, process

ASK = ("Hi", "-n", "6", "--ignore-eos")


def test_json_is_one_object_with_the_promised_keys(run: Run, model: Path) -> None:
    result = run("run", model, *ASK, "--json")
    assert (result.code, result.err, len(result.out.splitlines())) == (0, "", 1)
    answer = result.json
    assert answer["model"] == str(model)
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == len(answer["token_ids"]) == 6
    timings = answer["timings"]
    for name in ("load_ms", "ttft_ms", "prefill_tok_per_s", "decode_tok_per_s"):
        assert timings[name] > 0, name
    assert "logprobs" not in answer


def test_answer_is_that_of_the_library(run: Run, model: Path) -> None:
    llm = qwell.load(str(model))
    expected = llm.chat("Hi", max_tokens=6, ignore_eos=True)
    assert run("run", model, *ASK, "--json").json["token_ids"] == list(expected.token_ids)
    raw = llm.generate("Hi", max_tokens=6, ignore_eos=True)
    answer = run("run", model, *ASK, "--raw", "--json").json
    assert answer["text"] == raw.text
    assert answer["usage"]["prompt_tokens"] == 2


def test_plain_answer_is_the_text_and_a_line_end(run: Run, model: Path) -> None:
    text = run("run", model, *ASK, "--json").json["text"]
    result = run("run", model, *ASK)
    assert result.out == text + "\n" * (not text.endswith("\n"))
    assert result.err == ""


def test_pieces_are_written_as_they_come(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    flushed: list[int] = []
    monkeypatch.setattr(sys.stdout, "write", seen.append)
    monkeypatch.setattr(sys.stdout, "flush", lambda: flushed.append(len(seen)))
    run("run", model, "Hi", "-n", "40", "--ignore-eos")
    assert len(seen) > 10
    assert [count for count in flushed if count][:10] == list(range(1, 11))


def test_stdin_system_and_template(run: Run, model: Path) -> None:
    def prompt_tokens(*argv: str | Path, stdin: bytes = b"") -> int:
        return run("run", model, *argv, "--json", "-n", "1", stdin=stdin).json["usage"][
            "prompt_tokens"
        ]

    plain = prompt_tokens("über")
    assert prompt_tokens("-", stdin="über".encode()) == plain
    # The system turn: two control tokens, "system", two line ends, the text.
    assert prompt_tokens("über", "--system", "Be kind") == plain + 2 + 6 + 2 + 7
    Path("own.jinja").write_text("{{ messages[0].content }}")
    assert prompt_tokens("über", "--chat-template", "own.jinja") == len("über".encode())


def test_logprobs_and_seed(run: Run, model: Path) -> None:
    options = ("--json", "--logprobs", "2", "--temperature", "1.5", "--seed", "7")
    first = run("run", model, *ASK, *options).json
    assert run("run", model, *ASK, *options).json["token_ids"] == first["token_ids"]
    assert first["seed"] == 7
    assert [entry["token_id"] for entry in first["logprobs"]] == first["token_ids"]
    for entry in first["logprobs"]:
        assert entry["logprob"] < 0
        assert len(entry["top"]) == 2
        assert entry["top"][0]["logprob"] >= entry["top"][1]["logprob"]
        assert bytes(entry["bytes"]) or entry["token_id"] >= 256


def test_stop_may_be_repeated(run: Run, model: Path) -> None:
    whole = run("run", model, "Hi", "--raw", "-n", "30", "--json").json
    letters = [c for c in whole["text"] if c != "\ufffd"]
    answer = run(
        "run",
        model,
        "Hi",
        "--raw",
        "-n",
        "30",
        "--json",
        "--stop",
        "\x00\x00",
        "--stop",
        letters[-1],
    ).json
    assert answer["stop_reason"] == letters[-1]
    assert letters[-1] not in answer["text"]


def test_stats_go_to_stderr(run: Run, model: Path) -> None:
    plain, result = run("run", model, *ASK), run("run", model, *ASK, "--stats")
    assert result.out == plain.out
    assert "tok/s" in result.err and "6 tokens" in result.err


def test_reference_back_end_by_environment(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = run("run", model, *ASK, "--json").json
    monkeypatch.setenv("QWELL_BACKEND", "reference")
    assert run("run", model, *ASK, "--json").json["token_ids"][:2] == native["token_ids"][:2]
    monkeypatch.setenv("QWELL_BACKEND", "cuda")
    assert run("run", model, *ASK).code == 2


def test_utf8_whatever_the_locale(model: Path) -> None:
    env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = process("run", model, "ü", *ASK[1:], "--json", env=env)
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["usage"]["completion_tokens"] == 6
