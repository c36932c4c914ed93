"""The loop over a model of one matrix: weighting, guards, and its order of events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qwell.errors import TrainingError
from qwell.train.config import TrainConfig
from qwell.train.loop import Loop
from qwell.train.optim import AdamW, AdamWConfig

BASE = TrainConfig(micro_batches=1, lr=0.1, lr_final=0.1, schedule="constant", warmup_steps=0)


@dataclass(frozen=True)
class Item:
    """x [n, 3] and what the model should make of it [n]."""

    x: Tensor
    y: Tensor

    @property
    def num_tokens(self) -> int:
        return len(self.x)


class Squares:
    """Squared errors: an objective that knows nothing of tokens."""

    def weight(self, item: Item) -> int:
        return len(item.y)

    def loss(self, model: Any, item: Item, scale: float) -> Tensor:
        return scale * ((model(item.x)[:, 0] - item.y) ** 2).sum()


class Source:
    """The items again and again."""

    def __init__(self, items: list[Item]) -> None:
        self.items, self.at = items, 0

    def __iter__(self) -> Iterator[Item]:
        while True:
            self.at += 1
            yield self.items[(self.at - 1) % len(self.items)]

    def state(self) -> dict[str, Any]:
        return {"at": self.at}

    def restore(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def make(items: list[Item], config: TrainConfig = BASE, steps: int = 1, **more: Any) -> Loop:
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 0.5]]))
    optimizer = AdamW(model.named_parameters(), AdamWConfig(weight_decay=0.0))
    return Loop(config, steps, model, optimizer, Source(items), Squares(), **more)  # type: ignore[arg-type]


def draw(n: int, seed: int) -> Item:
    own = torch.Generator().manual_seed(seed)
    return Item(torch.randn(n, 3, generator=own), torch.randn(n, generator=own))


def weight(loop: Loop) -> Tensor:
    return next(loop.model.parameters()).detach().clone()


def test_uneven_micro_batches_are_one_batch() -> None:
    """2, 5 and 1 rows in three micro-batches weigh as the 8 rows they are."""
    whole = draw(8, 0)
    parts = [Item(whole.x[a:b], whole.y[a:b]) for a, b in ((0, 2), (2, 7), (7, 8))]
    events: list[Any] = []
    one = make([whole], watch=events.append)
    three = make(parts, replace(BASE, micro_batches=3), watch=events.append)
    one.run(), three.run()
    assert torch.allclose(weight(one), weight(three), atol=1e-7)
    first, second = (e for e in events if e["kind"] == "step")
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-6)
    assert (first["tokens"], first["targets"]) == (second["tokens"], second["targets"]) == (8, 8)


def test_the_gradient_is_clipped_before_the_step() -> None:
    """Adam forgets a constant factor, so the norm is read from its first moment."""
    loop = make([draw(8, 0)], replace(BASE, clip_norm=0.5))
    loop.run()
    moment = loop.optimizer.state_dict()["weight.m"] / (1 - 0.9)
    assert float(moment.norm()) == pytest.approx(0.5, rel=1e-4)


def test_a_nan_is_skipped_and_the_run_goes_on() -> None:
    bad = Item(torch.full((2, 3), float("nan")), torch.zeros(2))
    events: list[Any] = []
    loop = make([draw(4, 0), bad, draw(4, 1)], steps=3, watch=events.append)
    loop.step()
    before = weight(loop)
    loop.step()
    assert torch.equal(weight(loop), before)
    loop.step()
    assert not torch.equal(weight(loop), before) and torch.isfinite(weight(loop)).all()
    assert [bool(e["skipped"]) for e in events if e["kind"] == "step"] == [False, True, False]


def test_nothing_but_nan_gives_up() -> None:
    bad = Item(torch.full((2, 3), float("nan")), torch.zeros(2))
    with pytest.raises(TrainingError, match="lower --lr"):
        make([bad], replace(BASE, max_skips=3), steps=10).run()


def test_the_order_of_events() -> None:
    events: list[Any] = []
    saved: list[tuple[int, float | None]] = []
    config = replace(BASE, eval_every=2, save_every=3)
    loop = make(
        [draw(4, 0)],
        config,
        steps=5,
        evaluate=lambda: {"loss": 7.0},
        save=lambda loop, loss: saved.append((loop.position.step, loss)),
        watch=events.append,
    )
    assert loop.run()
    told = [(e["kind"], e["step"]) for e in events if e["kind"] != "step"]
    evals = [("eval", 0), ("eval", 2), ("save", 3), ("eval", 4), ("eval", 5), ("save", 5)]
    assert told == [*evals, ("end", 5)]
    assert saved == [(3, None), (5, 7.0)]


def test_the_last_checkpoint_has_the_last_loss() -> None:
    """Where the end is due for a checkpoint but not for a measurement: keep_best needs the loss."""
    saved: list[tuple[int, float | None]] = []
    loop = make(
        [draw(4, 0)],
        replace(BASE, eval_every=0, save_every=2),
        steps=4,
        evaluate=lambda: {"loss": 7.0},
        save=lambda loop, loss: saved.append((loop.position.step, loss)),
    )
    assert loop.run()
    assert saved == [(2, None), (4, 7.0)]
