"""The result of a race as a picture: a panel for each work and metric, a bar for each engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from report import METRICS

OURS, THEIRS = "#6741d9", "#b8bcc4"


def plot_race(path: Path, works: Sequence[Mapping[str, Any]], title: str) -> Path:
    """Draws the `works` of `report.as_json` into a PNG: tokens/s, and how many times faster ours
    is beside the bars of peers."""
    from matplotlib.figure import Figure

    panels = [(work, metric) for work in works for metric in METRICS]
    most = max(len(work["engines"]) for work in works)
    figure = Figure(
        figsize=(10, (0.8 + 0.4 * most) * len(works) + 0.5), layout="constrained", facecolor="white"
    )
    for axes, (work, metric) in zip(
        figure.subplots(len(works), len(METRICS), squeeze=False).flat, panels, strict=True
    ):
        _panel(axes, work, metric)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, format="png", dpi=110)
    return path


def _panel(axes: Any, work: Mapping[str, Any], metric: str) -> None:
    engines = work["engines"]
    speeds = [engine[metric] for engine in engines.values()]
    ours = [engine["against"] == name for name, engine in engines.items()]
    bars = axes.barh(list(engines), speeds, color=[OURS if own else THEIRS for own in ours])
    labels = [
        f" {speed:,.0f}" if own else f" {speed:,.0f}   ({engine['ratio'][metric]:.2f} x)"
        for speed, own, engine in zip(speeds, ours, engines.values(), strict=True)
    ]
    axes.bar_label(bars, labels, fontsize=9)
    axes.set_title(_heading(work, metric), fontsize=9, loc="left")
    axes.set_xlim(0, 1.5 * max(speeds))
    axes.invert_yaxis()
    axes.tick_params(left=False, labelsize=9)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)


def _heading(work: Mapping[str, Any], metric: str) -> str:
    batch, tokens = work["batch"], work["prompt_tokens"]
    what = "reading" if metric == METRICS[0] else "writing behind"
    which = f"a prompt of {tokens:,}" if batch == 1 else f"{batch} prompts of {tokens:,}"
    return f"{what} {which}, tokens/s"
