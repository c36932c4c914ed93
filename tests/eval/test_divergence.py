"""The statistics on distributions small enough to work out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from qwell.eval.divergence import Rows, compare, summarise

F32 = NDArray[np.float32]


def logits(*rows: list[float]) -> F32:
    """Logits of the given probabilities, each row shifted by a constant of its own."""
    return np.array([[math.log(p) + 7 * i for p in row] for i, row in enumerate(rows)], np.float32)


def rows(**over: list[float]) -> Rows:
    """Four rows, the last without a following token."""
    values = {
        "kl": [0.0, 0.2, 0.4, 0.6],
        "same_top1": [True, False, True, True],
        "margin": [0.1, 0.2, 0.6, 0.7],
        "nll_ref": [1.0, 2.0, 3.0, math.nan],
        "nll": [1.1, 2.1, 3.4, math.nan],
    } | over
    return Rows(**{name: np.array(value) for name, value in values.items()})


def test_compare_by_hand() -> None:
    reference = logits([0.5, 0.25, 0.25], [0.1, 0.8, 0.1])
    other = logits([0.25, 0.5, 0.25], [0.1, 0.8, 0.1])
    found = compare(reference, other, np.array([0, -1]))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.5)
    np.testing.assert_allclose(found.kl, [expected, 0], atol=1e-6)
    assert found.same_top1.tolist() == [False, True]
    np.testing.assert_allclose(found.margin, [math.log(2), math.log(8)], rtol=1e-5)
    np.testing.assert_allclose(found.nll_ref, [math.log(2), np.nan], rtol=1e-5)
    np.testing.assert_allclose(found.nll, [math.log(4), np.nan], rtol=1e-5)


def test_kl_is_not_symmetric_and_weighs_by_the_reference() -> None:
    sharp, flat = logits([0.98, 0.01, 0.01]), logits([1 / 3, 1 / 3, 1 / 3])
    there = compare(sharp, flat, np.array([-1])).kl[0]
    back = compare(flat, sharp, np.array([-1])).kl[0]
    assert there == pytest.approx(math.log(3) + 0.98 * math.log(0.98) + 0.02 * math.log(0.01), 1e-5)
    assert back == pytest.approx(-math.log(3) - (math.log(0.98) + 2 * math.log(0.01)) / 3, 1e-5)


def test_a_shift_of_all_logits_is_no_difference() -> None:
    x = np.random.default_rng(0).standard_normal((40, 300)).astype(np.float32)  # several slabs
    found = compare(x, x + np.float32(64), np.arange(40))
    assert found.kl.shape == (40,)
    assert np.abs(found.kl).max() < 1e-9  # the shift rounds logits by 4e-6
    assert found.same_top1.all()


def test_small_kl_keeps_its_digits() -> None:
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((8, 150_000))
    y = x + 0.02 * rng.standard_normal(x.shape)
    p = np.exp(x - np.log(np.exp(x).sum(1, keepdims=True)))
    q = np.exp(y - np.log(np.exp(y).sum(1, keepdims=True)))
    found = compare(x.astype(np.float32), y.astype(np.float32), np.full(8, -1))
    np.testing.assert_allclose(found.kl, (p * np.log(p / q)).sum(1), rtol=1e-3)


def test_ties_go_to_the_lowest_id_in_both() -> None:
    tie = np.array([[1.0, 2.0, 2.0]], np.float32)
    found = compare(tie, tie, np.array([-1]))
    assert found.margin[0] == 0
    assert found.same_top1[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_nan_and_stays_alone(bad: float) -> None:
    x = np.zeros((3, 5), np.float32)
    broken = x.copy()
    broken[1, 2] = bad
    assert np.isnan(compare(x, broken, np.zeros(3, int)).kl).tolist() == [False, True, False]


def test_summary_by_hand() -> None:
    found = summarise(rows())
    assert found.rows == 4
    assert found.kl_mean == pytest.approx(0.3)
    # 0, 0.2, 0.4, 0.6: standard deviation sqrt(0.2 / 3), over four positions
    assert found.kl_mean_se == pytest.approx(math.sqrt(0.2 / 3) / 2)
    assert found.kl_median == pytest.approx(0.3)
    assert found.kl_99 == pytest.approx(0.594)
    assert found.kl_99_9 == pytest.approx(0.5994)
    assert found.kl_max == 0.6
    assert found.top1 == 0.75
    assert (found.clear_rows, found.top1_clear) == (2, 1.0)
    assert found.perplexity_ref == pytest.approx(math.exp(2))
    assert found.perplexity == pytest.approx(math.exp(2.2))
    assert found.perplexity_change == pytest.approx(math.exp(0.2) - 1)
    # differences 0.1, 0.1, 0.4: standard deviation sqrt(0.03), over three tokens
    assert found.perplexity_change_se == pytest.approx(math.exp(0.2) * 0.1)


def test_no_clear_row_is_no_fault() -> None:
    found = summarise(rows(margin=[0.5, 0.1, 0.0, 0.2]))
    assert (found.clear_rows, found.top1_clear) == (0, 1.0)


def test_join_keeps_the_order() -> None:
    joined = Rows.join([rows(), rows(kl=[1.0, 2.0, 3.0, 4.0])])
    assert joined.kl.tolist() == [0.0, 0.2, 0.4, 0.6, 1.0, 2.0, 3.0, 4.0]
    assert joined.same_top1.dtype == bool
