"""Schedules at their ends and bends."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from qwell.train.config import PretrainConfig
from qwell.train.schedule import lr_at

BASE = PretrainConfig(lr=1.0, lr_final=0.1, warmup_steps=10)


@pytest.mark.parametrize("kind", ["cosine", "wsd", "linear"])
def test_ends(kind: str) -> None:
    config = replace(BASE, schedule=kind)  # type: ignore[arg-type]
    rates = [lr_at(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_cosine_half_way() -> None:
    assert lr_at(BASE, 55, 101) == pytest.approx(0.55)


def test_wsd_is_stable_then_falls() -> None:
    config = replace(BASE, schedule="wsd", decay_share=0.2)
    assert lr_at(config, 79, 100) == lr_at(config, 80, 100) == 1.0
    assert lr_at(config, 81, 100) == pytest.approx(1.0 - 0.9 / 19)


def test_constant_stays() -> None:
    assert lr_at(replace(BASE, schedule="constant"), 99, 100) == 1.0


@pytest.mark.parametrize("kind", ["cosine", "wsd", "linear", "constant"])
def test_short_runs_have_a_rate(kind: str) -> None:
    config = replace(BASE, schedule=kind)  # type: ignore[arg-type]
    for total in (1, 2, 5, 11):
        assert all(0 < lr_at(config, step, total) <= 1.0 for step in range(total))
