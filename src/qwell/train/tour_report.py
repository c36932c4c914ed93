"""One page on a tour: what was made, what each stage added, how long it took."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwell.train.files import write_whole
from qwell.train.logs import read_log
from qwell.train.plots import plot_losses


def write_report(out: Path, facts: Mapping[str, Any], seconds: Mapping[str, float]) -> Path:
    """Writes report.md, pretrain.png, sft.png and stages.png; gives the first. It is honest
    about a stage that did not beat the one before it."""
    plot_losses(out / "pretrain.png", {"pretrain": read_log(out / "pretrain")}, "Pre-training")
    plot_losses(out / "sft.png", {"sft": read_log(out / "sft")}, "Fine-tuning")
    _plot_bars(out / "stages.png", facts)
    path = out / "report.md"
    write_whole(path, _page(out, facts, seconds).encode())
    return path


def verdicts(out: Path, facts: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(what, before, after, whether after is better) of every stage."""
    found = facts["compression"]
    first, last = _held_out(out / "sft")
    before, after = facts["accuracy pretrain"]["all"], facts["accuracy sft"]["all"]
    return [
        (
            "pre-training, bits per byte of held-out text",
            f"new weights {found['fresh']:.3f}",
            f"{found['model']:.3f}",
            found["model"] < found["fresh"],
        ),
        (
            "the same against a compressor",
            f"xz -9 {found['xz']:.3f}",
            f"{found['model']:.3f}",
            found["model"] < found["xz"],
        ),
        ("fine-tuning, held-out loss of answers", f"{first:.3f}", f"{last:.3f}", last < first),
        (
            "fine-tuning, right answers to held-out tasks",
            f"{100 * before:.1f} %",
            f"{100 * after:.1f} %",
            after > before,
        ),
    ]


def _held_out(run: Path) -> tuple[float, float]:
    losses = [event["loss"] for event in read_log(run) if event["kind"] == "eval"]
    return losses[0], losses[-1]


def _page(out: Path, facts: Mapping[str, Any], seconds: Mapping[str, float]) -> str:
    data, model = facts["data"], facts["pretrain"]
    lines = [
        "# A model's life",
        "",
        f"{model['parameters']:,} parameters, {facts['tokenizer']['vocab_size']:,} tokens of "
        f"{facts['tokenizer']['bytes_per_token']:.2f} bytes; {model['steps']:,} steps of "
        f"pre-training on at most {model['tokens']:,} tokens, {facts['sft']['steps']:,} of "
        "fine-tuning.",
        "",
        "| stage and measure | before | after | better |",
        "|---|---|---|---|",
        *(f"| {a} | {b} | {c} | {'yes' if d else 'NO'} |" for a, b, c, d in verdicts(out, facts)),
        "",
        f"Held-out text: {facts['compression']['documents']:,} documents, "
        f"{facts['compression']['bytes']:,} bytes; `xz -9e` needs "
        f"{facts['compression']['xz_extreme']:.3f} bits per byte. Every byte is paid for; "
        "the first token of a document as one of the whole vocabulary, a later one with at least "
        f"{facts['compression']['context'] * 3 // 4:,} tokens before it, or all there are.",
        "",
        "![](stages.png)",
        "",
        "| task | pre-trained | fine-tuned |",
        "|---|---|---|",
        *(
            f"| {name} | {100 * facts['accuracy pretrain'][name]:.0f} % | {100 * share:.0f} % |"
            for name, share in facts["accuracy sft"].items()
        ),
        "",
        "![](pretrain.png)",
        "![](sft.png)",
        "",
        "## What it says",
        "",
        *(line for q, a in facts["samples"] for line in (f"> {_line(q)}", "", _line(a), "")),
        f"Over HTTP, from `qwell serve`: {_line(facts['served']['answer'])}",
        "",
        "## What it took",
        "",
        f"Corpus: {_counts(data['documents'])} documents, {_counts(data['bytes'])} bytes; "
        f"{sum(data['task_rows'].values()):,} questions to learn, "
        f"{sum(data['task_tests'].values()):,} held out.",
        "",
        "| step | minutes |",
        "|---|---|",
        *(f"| {name} | {took / 60:.1f} |" for name, took in seconds.items()),
        f"| all | {sum(seconds.values()) / 60:.1f} |",
        "",
        f"Talk to it: `qwell chat {out / 'sft/model'}`; serve it with `qwell serve`.",
        "",
    ]
    return "\n".join(lines)


def _plot_bars(path: Path, facts: Mapping[str, Any]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    found = facts["compression"]
    names = ("new weights", "xz -9", "this model")
    values = (found["fresh"], found["xz"], found["model"])
    left.bar(names, values, color=("0.75", "0.55", "C0"))
    left.bar_label(left.containers[0], fmt="%.2f")
    left.margins(y=0.12)
    left.set_ylabel("bits per byte (less is better)")
    tasks = list(facts["accuracy sft"])
    at = range(len(tasks))
    for shift, stage, colour in ((-0.2, "pretrain", "0.75"), (0.2, "sft", "C1")):
        shares = [100 * facts[f"accuracy {stage}"][task] for task in tasks]
        right.bar([x + shift for x in at], shares, 0.4, color=colour, label=stage)
    right.set_xticks(list(at), [task.replace("_", "\n") for task in tasks], fontsize=8)
    right.set_ylabel("right answers, %")
    right.legend()
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=110)
    write_whole(path, held.getvalue())


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(found.items()))


def _line(text: str) -> str:
    return " ".join(text.split())
