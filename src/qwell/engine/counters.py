"""Numbers of a running service: written by its thread, read by anybody."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

BOUNDS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.6, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True)
class Histogram:
    """counts[i] values are at most bounds[i] and above the bound before; the last count is of
    those above all bounds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass
class Tally:
    """A histogram that grows."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total += seconds

    def frozen(self) -> Histogram:
        return Histogram(BOUNDS_S, tuple(self.counts), self.total)


@dataclass
class Counters:
    """All from the start of the service."""

    steps: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cache_hit_tokens: int = 0
    reply_s: float = 0.0
    """How long a reply takes from its first row to its end, the last ones counting most."""
    step: Tally = field(default_factory=Tally)
    ttft: Tally = field(default_factory=Tally)
    gap: Tally = field(default_factory=Tally)

    def add_step(self, seconds: float) -> None:
        self.steps += 1
        self.step.add(seconds)

    def add_start(self, prompt_tokens: int, cached_tokens: int) -> None:
        self.tokens_in += prompt_tokens
        self.cache_hit_tokens += cached_tokens

    def add_reply(self, seconds: float) -> None:
        self.reply_s = seconds if self.reply_s == 0 else 0.9 * self.reply_s + 0.1 * seconds


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The numbers at one time."""

    running: int
    queued: int
    queued_tokens: int
    pages_used: int
    """Held by requests; pages kept for the next ones are not counted."""
    pages_kept: int
    pages_total: int
    cache_hit_tokens: int
    cache_miss_tokens: int
    refusals: dict[str, int]
    steps: int
    step_seconds: Histogram
    ttft_seconds: Histogram
    gap_seconds: Histogram
    tokens_in: int
    tokens_out: int
    estimated_wait_s: float
    reply_step_s: float
    """Of late, a step without prompt rows; 0 before the first."""
    prompt_row_s: float
    """Of late, a row of a prompt."""
