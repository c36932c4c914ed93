"""`qwell verify`: the report reaches the user, and a failed bar is a failed command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.tiny import Run

# Many positions: the best two tokens of a random model are often near each other, and the bar of
# the others needs 200 of them.
SMALL = ("--windows", "40", "--window-tokens", "64", "--text", "text.txt")


@pytest.fixture(autouse=True)
def text() -> None:
    Path("text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 64)


def test_a_faithful_program_passes(run: Run, model: Path) -> None:
    result = run("verify", model, *SMALL)
    assert result.code == 0, result
    assert "passed" in result.out and "mean KL" in result.out
    report = run("verify", model, *SMALL, "--json").json
    assert report["passed"] and set(report["paths"]) == {"prefill", "decode"}
    assert report["windows"] == 40


def test_a_missed_bar_is_exit_1(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qwell.eval import report

    impossible = (report.Bar("kl_mean", "mean KL", at_most=-1.0),)
    monkeypatch.setattr(report, "BARS", impossible)
    result = run("verify", model, *SMALL)
    assert result.code == 1
    assert "FAILED" in result.out and "mean KL" in result.err.splitlines()[-1]


def test_a_window_too_short_to_judge_by(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwell.eval import report

    seen = run("verify", model, "--windows", "1", "--window-tokens", "3", *SMALL[4:], "--json").json
    kl = seen["paths"]["prefill"]["kl_mean"]
    near = (report.Bar("kl_mean", "mean KL", at_most=kl),)  # as near as can be
    monkeypatch.setattr(report, "BARS", near)
    result = run("verify", model, "--windows", "1", "--window-tokens", "3", *SMALL[4:])
    assert result.code == 1 and result.out.rstrip().endswith("not judged: too little text")
    assert "too little to judge" in result.err and "--windows" in result.err.splitlines()[-1]


def test_too_little_text(run: Run, model: Path) -> None:
    result = run("verify", model, "--windows", "100", *SMALL[2:])
    assert result.code == 2 and "fewer or shorter windows" in result.err
