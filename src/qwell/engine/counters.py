"""Numbers of a running service: written by its thread, read by anybody."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from qwell.engine.policy import believed

BOUNDS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.6, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
BOUNDS_BATCH = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


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

    bounds: tuple[float, ...] = BOUNDS_S
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def frozen(self) -> Histogram:
        return Histogram(self.bounds, tuple(self.counts), self.total)


@dataclass
class Counters:
    """All from the start of the service."""

    steps: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cache_hit_tokens: int = 0
    step_s: float = 0.1
    """How long a step takes, the last ones counting most, and none for what a pause made of it."""
    reply_steps: float = 0.0
    """Steps of a reply from its first row to its end, the last ones counting most."""
    read_gb_per_s: float = 0.0
    """Memory read by steps without prompt rows, the last ones counting most."""
    step: Tally = field(default_factory=Tally)
    batch: Tally = field(default_factory=lambda: Tally(BOUNDS_BATCH))
    """Replies that a step moved on."""
    ttft: Tally = field(default_factory=Tally)
    gap: Tally = field(default_factory=Tally)

    def add_step(self, seconds: float, replies: int, read_bytes: int | None) -> None:
        """read_bytes: of weights, keys and values; None for a step that read a prompt."""
        self.steps += 1
        self.step.add(seconds)
        self.step_s += 0.1 * (believed(seconds, self.step_s, 0.0) - self.step_s)
        self.batch.add(replies)
        if read_bytes:
            rate = read_bytes / seconds * 1e-9
            self.read_gb_per_s += (0.05 if self.read_gb_per_s else 1) * (rate - self.read_gb_per_s)

    def add_start(self, prompt_tokens: int, cached_tokens: int) -> None:
        self.tokens_in += prompt_tokens
        self.cache_hit_tokens += cached_tokens

    def add_reply(self, steps: int) -> None:
        self.reply_steps += (0.1 if self.reply_steps else 1) * (steps - self.reply_steps)

    @property
    def reply_s(self) -> float:
        """How long a reply takes, reckoned from steps: what a pause took does not count."""
        return self.reply_steps * self.step_s


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
    batch_replies: Histogram
    read_gb_per_s: float
    """Of late, by steps that read no prompt; 0 where it is not known."""
    ttft_seconds: Histogram
    gap_seconds: Histogram
    tokens_in: int
    tokens_out: int
    estimated_wait_s: float
    reply_step_s: float
    """Of late, a step without prompt rows; 0 before the first."""
    prompt_row_s: float
    """Of late, a row of a prompt."""
