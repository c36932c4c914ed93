"""The learning rate of every step. Pure functions of the config and the step."""

from __future__ import annotations

import math

from qwell.train.config import TrainConfig


def lr_at(config: TrainConfig, step: int, total: int) -> float:
    """The rate of step `step` (from 0) of `total`.

    Rises linearly over warmup_steps (the first step is not 0), then: cosine (arXiv:1608.03983);
    wsd, constant until the last decay_share, then linear (arXiv:2404.06395); linear; constant.
    The last step of all but constant has lr_final.
    """
    warmup = min(config.warmup_steps, max(total - 1, 0))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    start = warmup
    if config.schedule == "wsd":
        start = max(warmup, total - max(1, round(config.decay_share * total)))
        if step < start:
            return config.lr
    share = 1.0 if total - 1 <= start else min(1.0, (step - start) / (total - 1 - start))
    if config.schedule == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return config.lr + share * (config.lr_final - config.lr)
