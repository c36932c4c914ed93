"""The bars, the verdict, the table and the JSON of a report."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from qwell.eval.divergence import Divergence
from qwell.eval.report import BARS, Report

GOOD = Divergence(
    rows=4096,
    kl_mean=0.0010,
    kl_mean_se=0.0,
    kl_median=0.0004,
    kl_99=0.003,
    kl_99_9=0.009,
    kl_max=0.02,
    top1=0.985,
    clear_rows=2847,
    top1_clear=0.998,
    perplexity_ref=20.0,
    perplexity=20.06,
    perplexity_change=-0.003,
    perplexity_change_se=0.0,
)


def report(**paths: Divergence) -> Report:
    return Report(
        model="tiny",
        backend="native, scalar, 1 thread",
        text="story.txt",
        text_sha256="ab" * 32,
        windows=8,
        window_tokens=512,
        paths=paths or {"prefill": GOOD, "decode": GOOD},
        seconds=12.3,
    )


def test_the_bars_are_those_of_the_project() -> None:
    bounds = {bar.figure: (bar.at_most, bar.at_least) for bar in BARS}
    assert bounds == {
        "kl_mean": (0.0010, None),
        "top1": (None, 0.98),
        "top1_clear": (None, 0.995),
        "perplexity_change": (0.003, None),
    }


def test_figures_without_error_at_the_bars_pass() -> None:
    assert report().passed
    assert report().failures == ()
    assert report().table().endswith("passed")


@pytest.mark.parametrize(
    ("figure", "value", "line"),
    [
        ("kl_mean", 0.00101, "decode: mean KL is 0.001010, the bar is <= 0.001"),
        ("kl_mean", math.nan, "decode: mean KL is nan, the bar is <= 0.001"),
        ("top1", 0.9769, "decode: same top-1 is 97.69 %, the bar is >= 98 %"),
        (
            "top1_clear",
            0.99,
            "decode: same top-1, margin > 0.5 is 99.00 %, the bar is >= 99.5 %",
        ),
        (
            "perplexity_change",
            0.0031,
            "decode: perplexity change is +0.310 %, the bar is within 0.3 %",
        ),
        (
            "perplexity_change",
            -0.0031,
            "decode: perplexity change is -0.310 %, the bar is within 0.3 %",
        ),
    ],
)
def test_one_path_beyond_one_bar_fails(figure: str, value: float, line: str) -> None:
    failed = report(prefill=GOOD, decode=replace(GOOD, **{figure: value}))
    assert not failed.passed
    assert failed.failures == (line,)
    assert failed.table().endswith("FAILED")
    assert sum("FAILED" in row for row in failed.table().splitlines()) == 2  # its row, the end


@pytest.mark.parametrize(
    ("over", "line"),
    [
        (
            {"kl_mean": 0.0008, "kl_mean_se": 0.0003},
            "decode: mean KL is 0.000800 +- 0.000300, the bar is <= 0.001",
        ),
        (
            {"kl_mean": 0.0012, "kl_mean_se": 0.0003},
            "decode: mean KL is 0.001200 +- 0.000300, the bar is <= 0.001",
        ),
        (
            {"perplexity_change": -0.0033, "perplexity_change_se": 0.002},
            "decode: perplexity change is -0.330 % +- 0.200 %, the bar is within 0.3 %",
        ),
        (
            {"rows": 64, "top1": 62 / 64},
            "decode: same top-1 is 96.88 % +- 1.75 %, the bar is >= 98 %",
        ),
        (
            {"clear_rows": 45, "top1_clear": 1.0},
            "decode: same top-1, margin > 0.5 is 100.00 % +- 1.05 %, the bar is >= 99.5 %",
        ),
    ],
)
def test_an_error_larger_than_the_distance_is_no_verdict(over: dict[str, float], line: str) -> None:
    unclear = report(prefill=GOOD, decode=replace(GOOD, **over))
    assert (unclear.passed, unclear.failures, unclear.unclear) == (False, (), (line,))
    assert unclear.table().endswith("not judged: too little text")
    assert sum("unclear" in row for row in unclear.table().splitlines()) == 1
    assert unclear.to_dict()["unclear"] == [line]


def test_an_error_smaller_than_the_distance_is_a_verdict() -> None:
    assert report(prefill=replace(GOOD, kl_mean=0.0006, kl_mean_se=0.0003)).passed
    assert report(prefill=replace(GOOD, kl_mean=0.0014, kl_mean_se=0.0003)).failures


def test_a_failed_bar_outweighs_an_unclear_one() -> None:
    found = report(prefill=replace(GOOD, kl_mean_se=0.1), decode=replace(GOOD, top1=0.5))
    assert found.table().endswith("FAILED") and found.failures and found.unclear


def test_table_names_model_text_and_both_paths() -> None:
    table = report(prefill=GOOD, decode=replace(GOOD, kl_max=0.125)).table()
    head, source, _, columns, *_ = table.splitlines()
    assert head == "tiny (native, scalar, 1 thread) against its float32 reference"
    assert source == "8 windows of 512 tokens: story.txt, sha256 abababababab; 12 s"
    assert columns.split() == ["prefill", "decode", "bar"]
    assert "largest KL                0.020000  0.125000\n" in table
    assert "positions                    4,096     4,096\n" in table


def test_dict_is_json_and_holds_every_figure() -> None:
    found = json.loads(json.dumps(report().to_dict()))
    assert found["paths"]["decode"]["kl_mean"] == 0.0010
    assert found["text_sha256"] == "ab" * 32
    assert found["passed"] is True
    assert found["failures"] == []
    assert {bar["figure"] for bar in found["bars"]} == {bar.figure for bar in BARS}
