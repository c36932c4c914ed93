"""Scheduling policy: who is next, and how many rows. Pure numbers; `scheduler.py` applies them.

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

MOST_JUMP = 2.5
"""A step counts as at most so many times what was expected: the process may have stood still for
minutes, and one step alone says little. Who is slow for good is believed within a few steps."""

MOST_GROWTH = 1.25
"""A step reads at most so many times the rows that, at the pace of the last one, fill its time."""

KEEP = 0.85
"""What a step measured counts when the next one has been."""

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
    every prompt row: the line of least squares through the steps measured, the last ones counting
    most. Where all were much alike, whose slope is noise, both go up or down together.
    """

    goal_s: float | None = None
    base_s: float = 0.0
    row_s: float = 0.002

    def __post_init__(self) -> None:
        self._last: tuple[int, float] | None = None  # rows, believed seconds
        self._sums = [0.0] * 5  # of 1, rows, rows^2, seconds, rows * seconds
        self._tries = 0
        for rows in (0, 64):  # what is known so far counts as two steps
            self._add(rows, self.base_s + rows * self.row_s)

    def rows(self, most: int) -> int:
        """Prompt rows for the next step, at most `most`.

        Where even MIN_ROWS take too long, every third step has twice as many: it may be base_s
        alone that is long, and steps that are all alike would never tell.
        """
        rows = self._fitting(most)
        if rows == MIN_ROWS:
            self._tries += 1
            rows += MIN_ROWS * (self._tries % 3 == 0)
        return min(rows, most)

    def reading_s(self, tokens: int, most: int) -> float:
        """How long so many prompt tokens take in steps of at most `most` rows."""
        rows = min(self._fitting(most), most)
        return tokens * (self.base_s / rows + self.row_s)

    def _fitting(self, most: int) -> int:
        if self.goal_s is None:
            return most
        least = self.base_s * READ_SHARE / (1 - READ_SHARE)
        reading_s = max(self.goal_s - self.base_s, least)
        fit = int(reading_s / self.row_s)
        if self._last:  # a slope is never believed so far that a step grows much at once
            rows, seconds = self._last
            grown = int(MOST_GROWTH * rows * (self.base_s + reading_s) / seconds)
            fit = min(fit, max(grown, 2 * MIN_ROWS))
        return max(min(fit, most), MIN_ROWS)

    def learn(self, prompt_rows: int, seconds: float) -> None:
        """A step with so many prompt rows took so long."""
        counted = believed(seconds, self.base_s + prompt_rows * self.row_s, 0.05)
        if prompt_rows >= MIN_ROWS:
            self._last = prompt_rows, max(counted, 1e-9)
        self._add(prompt_rows, counted)
        n, rows, squares, total, products = self._sums
        mean, mean_s = rows / n, total / n
        spread = squares / n - mean**2
        if spread > max(2 * MIN_ROWS, (mean / 3) ** 2):
            self.row_s = (products / n - mean * mean_s) / spread
            self.base_s = mean_s - self.row_s * mean
        else:
            times = mean_s / max(self.base_s + mean * self.row_s, 1e-9)
            self.base_s, self.row_s = self.base_s * times, self.row_s * times
        if self.base_s < 0:
            self.base_s, self.row_s = 0.0, products / squares
        # No part of a step takes longer than the whole.
        self.base_s = min(self.base_s, seconds)
        self.row_s = max(min(self.row_s, seconds / max(prompt_rows, 1)), 1e-6)

    def _add(self, rows: int, seconds: float) -> None:
        new = (1.0, rows, rows**2, seconds, rows * seconds)
        self._sums = [KEEP * old + more for old, more in zip(self._sums, new, strict=True)]


def believed(seconds: float, known: float, floor: float) -> float:
    """A measured time, cut at MOST_JUMP times the one expected; up to `floor` it always counts."""
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
