"""Bad steps are seen, sound ones let through, and patience ends."""

from __future__ import annotations

import json
import math

import pytest

from qwell.errors import TrainingError
from qwell.train.guard import LEAST, WINDOW, Guard


def calm(guard: Guard, count: int = LEAST) -> None:
    for i in range(count):
        assert not guard.fault(i, 2.0 + 0.01 * (i % 3), 1.0)


def test_nan_and_infinity() -> None:
    guard = Guard(8.0, 5)
    assert "loss is nan" in guard.fault(1, math.nan, 1.0)
    assert "gradient is inf" in guard.fault(2, 2.0, math.inf)
    assert guard.skipped == 2 and guard.recent == []


def test_a_spike_and_noise() -> None:
    guard = Guard(8.0, 5)
    calm(guard)
    assert not guard.fault(20, 2.2, 1.0)
    assert "spike" in guard.fault(21, 4.0, 1.0)
    assert not guard.fault(22, 2.0, 1.0)


def test_no_spikes_before_there_is_a_history_or_when_told() -> None:
    early = Guard(8.0, 5)
    calm(early, LEAST - 1)
    assert not early.fault(20, 50.0, 1.0)
    never = Guard(0.0, 5)
    calm(never)
    assert not never.fault(20, 50.0, 1.0)


def test_patience_ends() -> None:
    guard = Guard(8.0, 2)
    for step in (1, 2):
        assert guard.fault(step, math.nan, 1.0)
    with pytest.raises(TrainingError, match="step 3: the loss is nan, and so were the 2"):
        guard.fault(3, math.nan, 1.0)


def test_a_sound_step_restores_patience() -> None:
    guard = Guard(8.0, 2)
    for step in range(20):
        assert bool(guard.fault(step, math.nan if step % 2 else 2.0, 1.0)) == bool(step % 2)


def test_state_survives_json() -> None:
    guard, other = Guard(8.0, 5), Guard(8.0, 5)
    calm(guard, WINDOW + 5)
    guard.fault(100, math.nan, 1.0)
    other.restore(json.loads(json.dumps(guard.state())))
    assert other == guard and len(other.recent) == WINDOW
