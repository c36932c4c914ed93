"""Medians, ratios, the choice of settings, the table and the JSON, on made-up numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compare import lowest_decode_ratio, make_work
from contest import is_hopeless
from peer import Speed
from plot import plot_race
from report import METRICS, Entry, Tried, as_json, best, ratio, table

PREFILL, DECODE = METRICS
WORK = make_work(1, 512, 64)
A, B = {"flash": "on"}, {"flash": "off"}


def entry(name: str, rounds: list[tuple[float, float]], against: str = "qwell") -> Entry:
    tried = [Tried(A, Speed(10, 4)), Tried(B, Speed(20, 3)), Tried({"x": 1}, None, "no such thing")]
    chosen = {metric: best(tried, metric) for metric in METRICS}
    return Entry(name, "1.0", against, chosen, tried, [Speed(*pair) for pair in rounds])


OURS = entry("qwell", [(100, 10), (300, 30), (200, 20)])
THEIRS = entry("other", [(50, 2), (100, 10), (50, 10)])


def test_the_best_setting_is_chosen_for_each_metric():
    assert OURS.chosen == {PREFILL: B, DECODE: A}


def test_median_of_rounds():
    assert (OURS.median(PREFILL), OURS.median(DECODE)) == (200, 20)


def test_ratio_is_the_median_of_the_ratios_not_the_ratio_of_the_medians():
    assert ratio(OURS, THEIRS, PREFILL) == 3  # of 2, 3, 4
    assert ratio(OURS, THEIRS, DECODE) == 3  # of 5, 3, 2; the medians would give 2


def test_ratio_wants_as_many_rounds_of_both():
    with pytest.raises(ValueError, match="shorter"):
        ratio(OURS, entry("short", [(1, 1)]), PREFILL)


def test_table_has_a_line_for_every_engine_and_setting():
    lines = table(WORK, [OURS, THEIRS]).splitlines()
    assert lines[0].startswith("batch 1, prompt 512, 64 generated")
    assert lines[1].split() == ["qwell", "200.0", "20.0"]
    assert lines[2].split() == ["other", "50.0", "3.00", "x", "10.0", "3.00", "x"]
    assert [line[2:4] for line in lines[4:7]] == [" d", "p ", "  "]
    assert "failed: no such thing" in lines[6]


def test_a_twin_is_compared_with_its_own():
    twin = entry("qwell Q4_0", [(400, 40)] * 3, against="qwell Q4_0")
    other = entry("llama.cpp Q4_0", [(100, 20)] * 3, against="qwell Q4_0")
    found = as_json(WORK, [OURS, THEIRS, twin, other])["engines"]
    assert found["llama.cpp Q4_0"]["ratio"] == {PREFILL: 4, DECODE: 2}
    assert found["qwell"]["ratio"] == {PREFILL: 1, DECODE: 1}


def test_json_is_plain_and_whole():
    found = json.loads(json.dumps(as_json(WORK, [OURS, THEIRS])))
    assert (found["batch"], found["prompt_tokens"], found["gen_tokens"]) == (1, 512, 64)
    assert found["engines"]["other"]["settings"] == {PREFILL: B, DECODE: A}
    assert found["engines"]["other"]["tried"][2]["error"] == "no such thing"
    assert lowest_decode_ratio([found]) == 3


def test_no_peer_fails_no_bar():
    assert lowest_decode_ratio([as_json(WORK, [OURS])]) == float("inf")


@pytest.mark.parametrize(
    ("run", "others", "hopeless"),
    [
        (Speed(1, 1), [], False),
        (Speed(4, 4), [Speed(10, 10)], True),
        (Speed(4, 6), [Speed(10, 10)], False),
        (Speed(4, 4), [Speed(10, 1), Speed(1, 10)], True),
    ],
)
def test_hopeless_is_below_half_in_everything(run: Speed, others: list[Speed], hopeless: bool):
    assert is_hopeless(run, others) is hopeless


def test_a_race_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from matplotlib.axes import Axes

    seen: list[tuple[list[str], list[float], list[str]]] = []
    barh, bar_label = Axes.barh, Axes.bar_label

    def spy_bars(axes: Axes, names: list[str], speeds: list[float], **rest: object):
        seen.append((names, speeds, []))
        return barh(axes, names, speeds, **rest)

    def spy_labels(axes: Axes, bars: object, labels: list[str], **rest: object):
        seen[-1][2].extend(labels)
        return bar_label(axes, bars, labels, **rest)

    monkeypatch.setattr(Axes, "barh", spy_bars)
    monkeypatch.setattr(Axes, "bar_label", spy_labels)
    path = plot_race(tmp_path / "race.png", [as_json(WORK, [OURS, THEIRS])] * 2, "a model")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    names = ["qwell", "other"]
    prompt = (names, [200, 50], [" 200", " 50   (3.00 x)"])
    assert seen == [prompt, (names, [20, 10], [" 20", " 10   (3.00 x)"])] * 2
