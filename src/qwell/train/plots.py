"""Curves of a run as a picture: loss, held-out loss, learning rate, gradient."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from qwell.train.files import write_whole
from qwell.train.logs import read_log

PLOT = "loss.png"


def plot_run(folder: Path) -> Path:
    """Draws log.jsonl of a run into its loss.png."""
    events = read_log(folder)
    return plot_losses(folder / PLOT, {folder.name: events})


def plot_losses(path: Path, runs: dict[str, list[dict[str, Any]]], title: str = "") -> Path:
    """Loss and held-out loss of one or several runs above, rate and gradient below; a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    norm = lower.twinx()
    for i, (name, events) in enumerate(runs.items()):
        colour, label = f"C{i}", f"{name}: " if len(runs) > 1 else ""
        steps = [e for e in events if e["kind"] == "step" and not e["skipped"]]
        evals = [e for e in events if e["kind"] == "eval"]
        x = [e["step"] for e in steps]
        loss = [e["loss"] for e in steps]
        upper.plot(x, loss, color=colour, alpha=0.25, linewidth=0.8)
        upper.plot(x, smooth(loss), color=colour, linewidth=1.6, label=f"{label}training")
        if evals:
            at, held = [e["step"] for e in evals], [e["loss"] for e in evals]
            upper.plot(at, held, "o--", color=colour, markersize=4, label=f"{label}held out")
        lower.plot(x, [e["lr"] for e in steps], color=colour)
        norm.plot(x, [e["grad_norm"] for e in steps], color=colour, alpha=0.3, linewidth=0.8)
    upper.set_ylabel("loss, nats per token")
    upper.legend()
    upper.grid(alpha=0.3)
    upper.set_title(title)
    lower.set_xlabel("step")
    lower.set_ylabel("learning rate")
    norm.set_ylabel("gradient norm (pale)")
    norm.set_yscale("log")
    held_bytes = io.BytesIO()
    figure.savefig(held_bytes, format="png", dpi=110)
    write_whole(path, held_bytes.getvalue())
    return path


def smooth(values: list[float], most: int = 20) -> list[float]:
    """The exponential mean of about a fifth of the steps, `most` at most, without the pull of its
    start. In a short run a longer one would lag behind: its end would lie far above the loss."""
    span = min(most, max(2, len(values) // 5))
    share, kept, weight, found = 1 / span, 0.0, 0.0, []
    for value in values:
        kept, weight = kept + share * (value - kept), weight + share * (1 - weight)
        found.append(kept / weight)
    return found
