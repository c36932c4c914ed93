"""A life in a minute: everything `make proof-tour` does, on a model too small to learn much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qwell.errors import UsageError
from qwell.train.logs import read_log
from qwell.train.tour import tour
from qwell.train.tour_config import TourConfig, model_config
from qwell.train.tour_data import write_questions


@pytest.mark.slow
def test_a_small_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWELL_HOME", str(tmp_path / "home"))
    config = TourConfig(
        out=str(tmp_path / "tour"),
        pretrain_steps=40,
        sft_minutes=0.1,
        corpus_bytes=4_000_000,
        held_out_bytes=20_000,
        vocab_size=600,
        hidden_size=64,
        layers=1,
        rows_per_task=40,
        tests_per_task=2,
        threads=1,
    )
    assert model_config(config).head_dim == 32
    said: list[str] = []
    report = tour(config, said.append)
    text = report.read_text()
    assert "| pre-training, bits per byte of held-out text |" in text and "xz -9" in text
    for name in ("pretrain.png", "sft.png", "stages.png"):
        assert (report.parent / name).read_bytes().startswith(b"\x89PNG")
    for stage in ("pretrain", "sft"):
        events = read_log(report.parent / stage)
        losses = [e["loss"] for e in events if e["kind"] == "eval"]
        assert losses[-1] < losses[0]
        assert stage == "sft" or events[-1]["step"] == 40
    said.clear()
    assert tour(replace(config, layers=1), said.append) == report and said == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_size", 100), ("hidden_size", 0), ("pretrain_minutes", -1.0), ("layers", 0)],
)
def test_sizes_no_tour_can_have(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        TourConfig(**{name: value})


def test_questions_about_modules(tmp_path: Path) -> None:
    count = write_questions(tmp_path / "m.jsonl")
    assert count > 50 and len((tmp_path / "m.jsonl").read_text().splitlines()) == 4 * count
