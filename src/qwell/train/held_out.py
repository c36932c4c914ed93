"""Loss on rows that are not learnt from: the same rows in the same order every time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qwell.data.rows import Rows
from qwell.train.loop import Evaluate, Objective
from qwell.train.world import World


def held_out(
    model: Any, objective: Objective, rows: Iterable[Rows], world: World
) -> Evaluate | None:
    """Mean loss per target over `rows`, in nats; None if there are none. Processes share the rows;
    each runs as many passes as the others, or FSDP would wait for ever."""
    kept = list(rows)
    if not kept:
        return None
    own = [kept[at] for at in range(world.rank, len(kept), world.size)]
    passes = -(-len(kept) // world.size)
    idle = kept[:1] * (passes - len(own))

    def evaluate() -> Mapping[str, float]:
        loss = sum(float(objective.loss(model, item, 1.0)) for item in own)
        for item in idle:
            objective.loss(model, item, 1.0)
        total, weight = world.sum(loss, sum(objective.weight(item) for item in own))
        return {"loss": total / weight}

    return evaluate
