"""Who is next, and how many rows: the rules by which requests share the machine. Pure numbers.

Three questions, each answered by a function that knows no engine and no clock of its own: which
waiting request enters (`entry_order`), how many prompt rows fit into the time of a step (`Pace`),
and who gets them (`divide`). Rows of replies are not divided: every stream gets its one in every
step, so a gap between its tokens is the length of a step, which `Pace` bounds.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

AGEING_S = 10.0
"""Every so many seconds of waiting count as one more priority: whoever waits gets in at last."""

READ_SHARE = 0.25
"""Of a step's time for prompts at least, where the replies alone take longer than it should: many
streams must not stop prompts from being read."""

MIN_ROWS = 16
"""Prompt rows of a step however slow the machine is, so that reading always goes on."""

SCORED_ROWS = 64
"""Most rows of a step whose logits are wanted for the prompt's own tokens: 0.6 MB each."""

MOST_JUMP = 4.0
"""A step counts as at most so many times what was known: the process may have stood still for
minutes, and one step alone says little. Who is slow for good is believed within a few steps."""

FIRST_SHARE = 4
"""The oldest prompt gets one of so many parts, whatever comes after it: it cannot starve."""


def entry_order(
    *, priority: int, waited_s: float, running_of_key: int, arrival: int
) -> tuple[int, int, int]:
    """A sort key; the least enters first. Higher priority, then the key with the fewest requests
    running, then the order of arrival."""
    return -(priority + int(waited_s / AGEING_S)), running_of_key, arrival


@dataclass
class Pace:
    """How many prompt rows a step may have to take about `goal_s`. None: no goal.

    A step is taken to cost base_s (the weights are read once, and the replies' rows) and row_s for
    every prompt row; both are learned from steps measured, the last ones counting most. They come
    down at once where a whole step was shorter, and go up by `believed` alone.
    """

    goal_s: float | None = None
    base_s: float = 0.0
    row_s: float = 0.002

    def rows(self, most: int) -> int:
        """Prompt rows for the next step, at most `most`."""
        if self.goal_s is None:
            return most
        least = self.base_s * READ_SHARE / (1 - READ_SHARE)
        fit = int(max(self.goal_s - self.base_s, least) / self.row_s)
        return min(max(fit, MIN_ROWS), most)

    def learn(self, prompt_rows: int, seconds: float) -> None:
        """A step with so many prompt rows took so long."""
        if prompt_rows == 0:
            self.base_s += 0.2 * (believed(seconds, self.base_s, 0.05) - self.base_s)
            return
        self.base_s = min(self.base_s, seconds)
        if prompt_rows >= MIN_ROWS:  # fewer say little about the cost of one
            row_s = max((seconds - self.base_s) / prompt_rows, 1e-6)
            self.row_s += 0.3 * (believed(row_s, self.row_s, 0.002) - self.row_s)
        self.row_s = min(self.row_s, seconds / prompt_rows)


def believed(seconds: float, known: float, floor: float) -> float:
    """A measured time, cut at MOST_JUMP times the one known; up to `floor` it always counts."""
    return min(seconds, max(MOST_JUMP * known, floor))


@dataclass(frozen=True)
class Prompt:
    """A request of which more than the newest token is to be computed."""

    left: int
    """Rows to compute."""
    priority: int = 0
    running_of_key: int = 1
    page: Hashable = None
    """The page it computes next, if others could use it: two do not compute the same page."""
    is_scored: bool = False
    """The logits of all its rows are wanted."""


def divide(prompts: Sequence[Prompt], budget: int) -> list[int]:
    """Rows of each of `prompts` (oldest first), together at most `budget`.

    A part is set aside for the oldest. The rest goes by priority, to keys with few requests, then
    to whoever is soonest done: short prompts pass long ones, as many streams pass one.
    """
    rows, taken, scored = [0] * len(prompts), set[Hashable](), SCORED_ROWS
    order = sorted(
        range(len(prompts)),
        key=lambda i: (-prompts[i].priority, prompts[i].running_of_key, prompts[i].left, i),
    )
    turns = [(0, max(1, budget // FIRST_SHARE))] if prompts else []
    turns += [(i, budget) for i in order]
    for i, limit in turns:
        one = prompts[i]
        if rows[i] == 0 and one.page is not None and one.page in taken:
            continue
        give = min(one.left - rows[i], limit, budget - sum(rows))
        if one.is_scored:
            give = min(give, scored)
            scored -= give
        if give > 0:
            rows[i] += give
            taken.add(one.page)
    return rows
