"""Rounds of measurements -> medians, ratios, a table for people and an object for machines.

Pure: measures nothing. A ratio is ours / theirs within a round, so a change of the machine's speed
meets both; the median of the rounds counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from peer import Setting, Speed, Work

METRICS = ("prefill_tok_per_s", "decode_tok_per_s")


@dataclass(frozen=True)
class Tried:
    """One setting of an engine on one work: its speed, or why it failed."""

    setting: Setting
    speed: Speed | None
    error: str = ""


@dataclass(frozen=True)
class Entry:
    """One engine on one work."""

    name: str
    version: str
    against: str
    """The engine of ours its ratios are taken with; its own name if it is ours."""
    chosen: Mapping[str, Setting]
    """Metric -> the setting that was best at it."""
    tried: Sequence[Tried]
    rounds: Sequence[Speed]
    """Prefill and decode, each under its own best setting, round by round."""

    def median(self, metric: str) -> float:
        return median(getattr(speed, metric) for speed in self.rounds)


def best(tried: Sequence[Tried], metric: str) -> Setting:
    """The fastest setting that worked; there must be one."""
    worked = [t for t in tried if t.speed is not None]
    return max(worked, key=lambda t: getattr(t.speed, metric)).setting


def ratio(ours: Entry, theirs: Entry, metric: str) -> float:
    pairs = zip(ours.rounds, theirs.rounds, strict=True)
    return median(getattr(a, metric) / getattr(b, metric) for a, b in pairs)


def words(setting: Setting) -> str:
    return " ".join(f"{key}={value}" for key, value in setting.items()) or "as it is"


def table(work: Work, entries: Sequence[Entry]) -> str:
    """Medians and how many times faster ours is, one engine a line, then the settings."""
    by_name = {entry.name: entry for entry in entries}
    head = ("prefill", "ours is", "decode", "ours is")
    lines = [f"{work!s:42s}" + "".join(f"{text:>10s}" for text in head)]
    for entry in entries:
        line = f"  {entry.name:40s}"
        for metric in METRICS:
            line += f"{entry.median(metric):10.1f}{_times(by_name, entry, metric):>10s}"
        lines.append(line)
    lines.append("  settings tried (p best prefill, d best decode)")
    lines += [_tried_line(entry, tried) for entry in entries for tried in entry.tried]
    return "\n".join(lines)


def _times(by_name: Mapping[str, Entry], entry: Entry, metric: str) -> str:
    if entry.against == entry.name:
        return ""
    return f"{ratio(by_name[entry.against], entry, metric):.2f} x"


def _tried_line(entry: Entry, tried: Tried) -> str:
    marks = "".join(m[0] if entry.chosen[m] == tried.setting else " " for m in METRICS)
    result = (
        f"{tried.speed.prefill_tok_per_s:10.1f}{tried.speed.decode_tok_per_s:10.1f}"
        if tried.speed
        else f"  failed: {tried.error[:60]}"
    )
    return f"  {marks} {entry.name:18s} {words(tried.setting):58s}{result}"


def as_json(work: Work, entries: Sequence[Entry]) -> dict[str, Any]:
    """{"batch", "prompt_tokens", "gen_tokens", "engines": {name: {..., "ratio": {metric: x}}}}"""
    by_name = {entry.name: entry for entry in entries}
    engines = {
        entry.name: {
            "version": entry.version,
            **{metric: entry.median(metric) for metric in METRICS},
            "against": entry.against,
            "ratio": {m: ratio(by_name[entry.against], entry, m) for m in METRICS},
            "settings": dict(entry.chosen),
            "tried": [asdict(tried) for tried in entry.tried],
            "rounds": [asdict(speed) for speed in entry.rounds],
        }
        for entry in entries
    }
    shape = {
        "batch": work.batch,
        "prompt_tokens": work.prompt_tokens,
        "gen_tokens": work.gen_tokens,
    }
    return shape | {"engines": engines}
