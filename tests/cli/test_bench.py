"""`qwell bench`: the JSON's shape, figures that agree with each other, the table, KL."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from qwell.checkpoint import open_checkpoint
from qwell.eval.speed import OUTSIDE, Work, prefill_ops, weight_bytes
from qwell.native import probe
from tests.cli.tiny import Run

SMALL = ("--prompt-tokens", "40", "--gen-tokens", "6", "--repeat", "2", "--threads", "2")


@pytest.fixture(autouse=True)
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BUFFER_BYTES", 4 << 20)
    monkeypatch.setattr(probe, "_PEAK_S", 0.001)


def test_json(run: Run, model: Path) -> None:
    result = run("bench", model, *SMALL, "--batch", "1,3", "--json")
    assert result.code == 0, result
    assert len(result.out.splitlines()) == 1
    assert "batch 3, run 2 of 2" in result.err
    found = result.json
    assert set(found) >= {"model", "isa", "threads", "kl", "runs", "ceilings"}
    assert found["threads"] == 2 and found["ceilings"]["read_gb_per_s"] > 0
    assert [one["batch"] for one in found["runs"]] == [1, 3]
    for one in found["runs"]:
        check_run(one, found)


def check_run(one: dict[str, Any], found: dict[str, Any]) -> None:
    assert (one["prompt_tokens"], one["gen_tokens"], one["decode_steps"]) == (40, 6, 6)
    assert one["prefill_tok_per_s"] > 0 and len(one["repeats"]["decode_tok_per_s"]) == 2
    # A row sees itself: 41 in the first step, 46 in the last.
    assert one["mean_context"] == pytest.approx(43.5, abs=0.01)
    speed, size = one["decode_tok_per_s"], one["bytes_per_token"]
    assert one["decode_gb_per_s"] == pytest.approx(speed * size * 1e-9)
    assert one["decode_of_bandwidth"] > 0
    peak = found["ceilings"][one["compute_ceiling"]]
    assert one["prefill_of_compute"] >= 0.99 * one["prefill_gop_per_s"] / peak
    for part in ("prefill", "decode"):
        phases = one["phases_ms"][part]
        assert {"attention", "lm_head", "down_proj", OUTSIDE} <= set(phases)
        assert all(ms > 0 for ms in phases.values())


def test_phases_make_up_the_time(run: Run, model: Path) -> None:
    one = run("bench", model, *SMALL, "--repeat", "1", "--batch", "2", "--json").json["runs"][0]
    for part, tokens in (("prefill", 2 * 40), ("decode", 2 * 6)):
        seconds = tokens / one[f"{part}_tok_per_s"]
        assert sum(one["phases_ms"][part].values()) == pytest.approx(1000 * seconds)


def test_more_requests_than_the_engine_takes_by_default(run: Run, model: Path) -> None:
    """16 prompts of 40 are three steps; those that began early write on, and none is cut."""
    found = run("bench", model, *SMALL, "--repeat", "1", "--batch", "16", "--greedy", "--json").json
    one = found["runs"][0]
    assert one["prefill_steps"] == 3 and one["decode_steps"] == 6
    assert found["sampling"]["temperature"] == 0


def test_table(run: Run, model: Path) -> None:
    result = run("bench", model, *SMALL, "--batch", "1,2")
    assert result.code == 0, result
    for words in ("batch 1", "batch 2", "of the read bandwidth", "prefill, ms a step", "clock"):
        assert words in result.out
    assert "KL to float32: not measured: run qwell verify" in result.out
    rows = [line for line in result.out.splitlines() if line.startswith("decode, tokens/s")]
    assert len(rows) == 1 and len(rows[0].split()) == 6


def test_kl(
    run: Run, model: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `verify`, once it has run; or measured on the spot."""
    own = tmp_path / "own"
    shutil.copytree(home, own)
    monkeypatch.setenv("QWELL_HOME", str(own))
    quick = ("bench", model, *SMALL, "--batch", "1", "--repeat", "1", "--json")
    assert run(*quick).json["kl"] is None
    now = run(*quick, "--kl").json["kl"]
    assert now["date"] is None and 0 <= now["decode"] < 0.01
    Path("text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 10)
    report = run(
        "verify", model, "--windows", "2", "--window-tokens", "64", "--text", "text.txt", "--json"
    ).json
    kl = run(*quick).json["kl"]
    assert kl["prefill"] == report["paths"]["prefill"]["kl_mean"]
    assert (kl["windows"], kl["window_tokens"]) == (2, 64) and kl["date"]
    next(own.rglob("verify.json")).write_text("{}")
    assert run(*quick).json["kl"] is None


def test_reference_is_not_timed(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWELL_BACKEND", "reference")
    result = run("bench", model)
    assert result.code == 2 and "unset QWELL_BACKEND" in result.err


def test_bytes_and_operations_of_a_token(model: Path) -> None:
    checkpoint = open_checkpoint([model])
    config = checkpoint.config
    sizes = {name: len(t.data) for name, t in checkpoint.tensors.items()}
    own_head = "lm_head.weight" in sizes
    unread = sizes["model.embed_tokens.weight"] if own_head else 0
    assert weight_bytes(checkpoint) == sum(sizes.values()) - unread
    matrices = sum(
        t.shape[0] * t.shape[1]
        for name, t in checkpoint.tensors.items()
        if name.startswith("model.layers") and len(t.shape) == 2
    )
    one = prefill_ops(config, Work(batch=1, prompt_tokens=1, gen_tokens=1))
    attention = 4 * config.num_layers * config.num_heads * config.head_dim
    head = 2 * config.hidden_size * config.vocab_size
    assert one == 2 * matrices + attention + head
    two = prefill_ops(config, Work(batch=1, prompt_tokens=2, gen_tokens=1))
    assert two - one == 2 * matrices + 2 * attention  # the second row sees two tokens
    assert prefill_ops(config, Work(batch=5, prompt_tokens=2, gen_tokens=1)) == 5 * two
