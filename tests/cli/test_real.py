"""The command on the official 0.5B, as a newcomer first meets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.tiny import process


@pytest.mark.weights
def test_an_answer_that_makes_sense(official_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    gguf, home = official_gguf("0.5b"), {"QWELL_HOME": str(tmp_path / "home")}
    ask = ("What is the capital of France? One word.", "--temperature", "0", "-n", "16")
    result = process("run", gguf, *ask, "--json", env=home)
    assert result.code == 0, result
    assert "Paris" in result.json["text"] and result.json["finish_reason"] == "stop"
    again = process("run", gguf, *ask, env=home)
    assert again.out == result.json["text"] + "\n"
