"""The curve that is drawn over the losses of single steps."""

from __future__ import annotations

from qwell.train.plots import smooth


def test_the_curve_of_a_short_run_ends_near_its_loss() -> None:
    loss = [0.5**step for step in range(12)]
    assert smooth(loss)[-1] < 0.01
    assert smooth([3.0] * 7) == [3.0] * 7


def test_the_curve_of_a_long_run_is_smooth() -> None:
    curve = smooth([step % 2 for step in range(400)])
    assert all(0.45 < value < 0.55 for value in curve[100:])
