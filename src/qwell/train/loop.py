"""The loop of every stage. It knows no stage: what is learnt comes in as an `Objective`.

A step: take the micro-batches, count their weight (for next-token losses the targets) over all
processes, run each forward and backward with its loss divided by that count, clip, ask the guard,
move the weights. So a step is the same however it is cut into micro-batches and processes.
Around the steps: measurements, checkpoints, and a clean end on SIGTERM and Ctrl-C.
"""

from __future__ import annotations

import gc
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qwell.data.rows import RowSource
from qwell.train.config import TrainConfig
from qwell.train.guard import Guard
from qwell.train.optim import clip_scale, grad_norm
from qwell.train.schedule import lr_at
from qwell.train.world import World


class Objective(Protocol):
    """What a stage learns from one micro-batch."""

    def weight(self, item: Any) -> int:
        """What the micro-batch counts in its step: tokens learnt, pairs, ..."""

    def loss(self, model: nn.Module, item: Any, scale: float) -> Tensor:
        """scale * the loss summed over the micro-batch, a float32 scalar."""


Event = Mapping[str, Any]
"""What happened, ready for JSON: "kind" is step, eval, save, note or end."""
Watch = Callable[[Event], None]
Evaluate = Callable[[], Mapping[str, float]]
"""Measures the model; "loss" is what the best checkpoint has least of."""


class Optimizer(Protocol):
    """What the loop asks of an optimizer; state_dict holds this process's parts, by
    `<parameter>.<state>`."""

    def step(self, lr: float, *, grad_scale: float = 1.0) -> None: ...
    def zero_grad(self) -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, saved: dict[str, Tensor]) -> None: ...


class Save(Protocol):
    """Writes a checkpoint of the whole run (snapshot.py); `loss` is the measured one, if any."""

    def __call__(self, loop: Loop, loss: float | None) -> None: ...


@dataclass
class Position:
    """How far a run is."""

    step: int = 0
    tokens: int = 0
    targets: int = 0
    evals: dict[str, float] = field(default_factory=dict)
    """the last measurement"""
    measured: int = -1
    """the step it was made at"""

    def advance(self, tokens: int, targets: int) -> None:
        """One step, of so many tokens and targets, is done."""
        self.step += 1
        self.tokens += tokens
        self.targets += targets


class Loop:
    """One run from where it stands to its last step.

    total: steps of the whole run. source gives this process's micro-batches; evaluate and save may
    be None. Every process of the world runs the same loop.
    """

    def __init__(
        self,
        config: TrainConfig,
        total: int,
        model: nn.Module,
        optimizer: Optimizer,
        source: RowSource,
        objective: Objective,
        *,
        evaluate: Evaluate | None = None,
        save: Save | None = None,
        watch: Watch = lambda _: None,
        world: World = World(),  # noqa: B008 (frozen)
    ) -> None:
        self.config, self.total, self.world = config, total, world
        self.model, self.optimizer = model, optimizer
        self.source, self.objective = source, objective
        self.evaluate, self.save, self.watch = evaluate, save, watch
        self.guard = Guard(config.spike_sigma, config.max_skips)
        self.position = Position()
        self._items: Iterator[Any] = iter(source)
        self.saved_at = -1

    def run(self) -> bool:
        """True when the last step is done, False when a signal ended it early; saved both ways.
        Raises TrainingError when the guard gives up."""
        gc.collect()
        gc.freeze()  # what is loaded stays: a step makes enough objects to have it all walked again
        try:
            return self._run()
        finally:
            gc.unfreeze()

    def _run(self) -> bool:
        with stop_asked() as stop:
            self.model.train()
            if self.position.step == 0:  # what the stage starts from
                self.measure()
            while self.position.step < self.total:
                self.step()
                if self._due(self.config.eval_every):
                    self.measure()
                # The last checkpoint waits for the last measurement: it may be the best one.
                if self._due(self.config.save_every) and self.position.step < self.total:
                    self.checkpoint()
                # Signals reach processes at different times; all must stop at the same step.
                if any(self.world.sum(stop.count)):
                    self.checkpoint()
                    self.watch({"kind": "end", "step": self.position.step, "done": False})
                    return False
        self.measure()
        self.checkpoint()
        self.watch({"kind": "end", "step": self.position.step, "done": True})
        return True

    def step(self) -> None:
        """One optimizer step, or a skipped one."""
        start = perf_counter()
        items = list(islice(self._items, self.config.micro_batches // self.world.size))
        weights = [self.objective.weight(item) for item in items]
        tokens, weight = self.world.sum(sum(item.num_tokens for item in items), sum(weights))
        loss = self._accumulate(items, weight)
        norm = self._norm()
        lr = lr_at(self.config, self.position.step, self.total)
        reason = self.guard.fault(self.position.step + 1, loss, norm)
        if not reason:
            clip = self.config.clip_norm
            self.optimizer.step(lr, grad_scale=clip_scale(norm, clip) if clip else 1.0)
        self.optimizer.zero_grad()
        self.position.advance(int(tokens), int(weight))
        self.watch(
            {
                "kind": "step",
                "step": self.position.step,
                "loss": loss,
                "grad_norm": norm,
                "lr": lr,
                "tokens": int(tokens),
                "targets": int(weight),
                "skipped": reason,
                "seconds": perf_counter() - start,
            }
        )

    def measure(self) -> None:
        """Runs `evaluate` if there is one and these weights are not measured yet."""
        if self.evaluate is None or self.position.measured == self.position.step:
            return
        self.model.eval()
        with torch.no_grad():
            self.position.evals, self.position.measured = dict(self.evaluate()), self.position.step
        self.world.settle(self.model)
        self.model.train()
        self.watch({"kind": "eval", "step": self.position.step, **self.position.evals})

    def checkpoint(self) -> None:
        """Saves if this step is not saved yet."""
        if self.save is None or self.saved_at == self.position.step:
            return
        # A loss measured at another step says nothing of these weights.
        is_measured = self.position.measured == self.position.step
        self.save(self, self.position.evals.get("loss") if is_measured else None)
        self.saved_at = self.position.step
        self.watch({"kind": "save", "step": self.position.step})

    def _due(self, every: int) -> bool:
        return every > 0 and self.position.step % every == 0

    def _accumulate(self, items: list[Any], weight: float) -> float:
        """Gradients of the step; the mean loss over all processes, in nats."""
        scale = 1.0 / max(weight, 1.0)
        summed = 0.0
        for item in items:
            loss = self.objective.loss(self.model, item, scale)
            loss.backward()
            summed += float(loss.detach())
        return self.world.sum(summed)[0]

    def _norm(self) -> float:
        """Euclidean norm of the whole gradient, before clipping."""
        own = grad_norm(self.model.parameters())
        return math.sqrt(self.world.sum(own * own)[0]) if self.world.size > 1 else own


@dataclass
class Stop:
    """How often a signal asked for the end."""

    count: int = 0


@contextmanager
def stop_asked() -> Iterator[Stop]:
    """SIGTERM and a first Ctrl-C ask for an end after this step; a second Ctrl-C does not wait."""
    asked = Stop()

    def ask(number: int, frame: Any) -> None:  # noqa: ARG001
        asked.count += 1
        if number == signal.SIGINT and asked.count > 1:
            raise KeyboardInterrupt

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: whoever owns it takes care of signals
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
