"""The parity report: figures of both paths, the bars they must meet, a table and JSON.

It knows how to judge and to show; measuring is `parity`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qwell.eval.divergence import CLEAR_MARGIN, Divergence


@dataclass(frozen=True)
class Bar:
    """A figure of `Divergence` and the bound of its absolute value: exactly one of the two."""

    figure: str
    label: str
    at_most: float | None = None
    at_least: float | None = None

    def is_met(self, divergence: Divergence) -> bool:
        """False for nan."""
        value = abs(getattr(divergence, self.figure))
        return bool(value <= self.at_most if self.at_most is not None else value >= self.at_least)

    def error(self, divergence: Divergence) -> float:
        """The standard error of the figure; of a share, that of one which lies at the bar, since
        that of 45 hits of 45 would be nothing."""
        if self.at_least is None or not 0 < self.at_least < 1:
            return float(getattr(divergence, f"{self.figure}_se"))
        count = divergence.clear_rows if "clear" in self.figure else divergence.rows
        return math.sqrt(self.at_least * (1 - self.at_least) / max(1, count))

    def is_unclear(self, divergence: Divergence) -> bool:
        """Whether the standard error is larger than what separates the figure from the bar: another
        text could then have put it on the other side. False for nan."""
        value = abs(getattr(divergence, self.figure))
        bound = self.at_most if self.at_most is not None else self.at_least
        return bool(self.error(divergence) > abs(value - bound))

    def verdict(self, divergence: Divergence) -> str:
        """OK, UNCLEAR or FAILED."""
        if self.is_unclear(divergence):
            return UNCLEAR
        return OK if self.is_met(divergence) else FAILED


OK, UNCLEAR, FAILED = _WORST_LAST = ("ok", "unclear", "FAILED")

BARS = (
    Bar("kl_mean", "mean KL", at_most=0.0010),
    Bar("top1", "same top-1", at_least=0.98),
    Bar("top1_clear", f"same top-1, margin > {CLEAR_MARGIN}", at_least=0.995),
    Bar("perplexity_change", "perplexity change", at_most=0.003),
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `qwell verify` found. `paths` maps "prefill" and "decode" to their figures."""

    model: str
    backend: str
    """Which program was measured: its instruction set and threads."""
    text: str
    text_sha256: str
    windows: int
    window_tokens: int
    paths: Mapping[str, Divergence]
    seconds: float

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for every bar that is not met; empty when all are."""
        return self._lines_of(FAILED)

    @property
    def unclear(self) -> tuple[str, ...]:
        """One line for every bar that this little text cannot tell from its figure."""
        return self._lines_of(UNCLEAR)

    @property
    def passed(self) -> bool:
        return not self.failures and not self.unclear

    def _lines_of(self, verdict: str) -> tuple[str, ...]:
        return tuple(
            f"{path}: {bar.label} is {_show(bar.figure, getattr(found, bar.figure))}"
            f"{_error(bar, found) if verdict == UNCLEAR else ''}, the bar is {_bound(bar)}"
            for path, found in self.paths.items()
            for bar in BARS
            if bar.verdict(found) == verdict
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        facts = {name: getattr(self, name) for name in _FACTS}
        paths = {name: asdict(found) for name, found in self.paths.items()}
        bars = [asdict(bar) for bar in BARS]
        return facts | {
            "paths": paths,
            "bars": bars,
            "passed": self.passed,
            "failures": list(self.failures),
            "unclear": list(self.unclear),
        }

    def table(self) -> str:
        """Plain text for people: a head, one column a path, the bar and its verdict."""
        head = (
            f"{self.model} ({self.backend}) against its float32 reference\n"
            f"{self.windows} windows of {self.window_tokens} tokens: {self.text}, "
            f"sha256 {self.text_sha256[:12]}; {self.seconds:.0f} s"
        )
        bars = {bar.figure: bar for bar in BARS}
        lines = [["", *self.paths, "bar", ""]]
        for figure, label in _LINES.items():
            values = [_show(figure, getattr(found, figure)) for found in self.paths.values()]
            verdict = ["", ""]
            if bar := bars.get(figure):
                worst = max(map(bar.verdict, self.paths.values()), key=_WORST_LAST.index)
                verdict = [_bound(bar), worst]
            lines.append([label, *values, *verdict])
        doubt = "not judged: too little text" if self.unclear else "passed"
        end = "FAILED" if self.failures else doubt
        return f"{head}\n\n{align(lines)}\n\n{end}"


_FACTS = ("model", "backend", "text", "text_sha256", "windows", "window_tokens", "seconds")

_LINES = {
    "rows": "positions",
    "kl_mean": "mean KL, nats",
    "kl_mean_se": "its standard error",
    "kl_median": "median KL",
    "kl_99": "99 % KL",
    "kl_99_9": "99.9 % KL",
    "kl_max": "largest KL",
    "top1": "same top-1",
    "clear_rows": f"positions, margin > {CLEAR_MARGIN}",
    "top1_clear": f"same top-1, margin > {CLEAR_MARGIN}",
    "perplexity_ref": "perplexity, reference",
    "perplexity": "perplexity",
    "perplexity_change": "perplexity change",
    "perplexity_change_se": "its standard error",
}


def _show(figure: str, value: float) -> str:
    if figure.startswith("kl"):
        return f"{value:.6f}"
    if figure.startswith("top1"):
        return f"{100 * value:.2f} %"
    if "change" in figure:
        return f"{100 * value:{'' if figure.endswith('se') else '+'}.3f} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _error(bar: Bar, divergence: Divergence) -> str:
    return f" +- {_show(f'{bar.figure}_se', bar.error(divergence))}"


def _bound(bar: Bar) -> str:
    if bar.at_least is not None:
        return f">= {100 * bar.at_least:g} %"
    assert bar.at_most is not None
    return f"<= {bar.at_most:g}" if "kl" in bar.figure else f"within {100 * bar.at_most:g} %"


def align(lines: list[list[str]]) -> str:
    """Columns padded to their widest cell: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
