"""What keeps a bad batch from ruining a run: losses that are no number or far above the others.

A bad step is skipped: its gradients are dropped, the weights stay. Too many in a row are no
accident, and the run ends. The state is part of the checkpoint, so a resumed run skips the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

from qwell.errors import TrainingError

WINDOW, LEAST = 64, 16
FLOOR = 0.02
"""Deviations count as at least this share of the mean: on a flat stretch noise is no spike."""


@dataclass
class Guard:
    """sigma: deviations above the mean of the last steps that make a spike; 0: none does."""

    sigma: float
    max_skips: int
    recent: list[float] = field(default_factory=list)
    in_a_row: int = 0
    skipped: int = 0

    def fault(self, step: int, loss: float, grad_norm: float) -> str:
        """Why the step must be skipped; empty if it is sound. Raises TrainingError at the end of
        patience."""
        reason = self._reason(loss, grad_norm)
        if not reason:
            self.in_a_row = 0
            self.recent = [*self.recent, loss][-WINDOW:]
            return ""
        self.in_a_row += 1
        self.skipped += 1
        if self.in_a_row > self.max_skips:
            raise TrainingError(
                f"step {step}: {reason}, and so were the {self.in_a_row - 1} steps before it: "
                "lower --lr, raise --warmup-steps, or look at the data there"
            )
        return reason

    def _reason(self, loss: float, grad_norm: float) -> str:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the norm of the gradient is {grad_norm}"
        if self.sigma and len(self.recent) >= LEAST:
            mean = fmean(self.recent)
            limit = mean + self.sigma * max(pstdev(self.recent), FLOOR * abs(mean))
            if loss > limit:
                return f"the loss {loss:.4f} is a spike (mean {mean:.4f}, limit {limit:.4f})"
        return ""

    def state(self) -> dict[str, Any]:
        return {"recent": self.recent, "in_a_row": self.in_a_row, "skipped": self.skipped}

    def restore(self, state: dict[str, Any]) -> None:
        self.recent, self.in_a_row = list(state["recent"]), state["in_a_row"]
        self.skipped = state["skipped"]
