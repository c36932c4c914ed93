"""One run of a stage: world, seeds, data, checkpoints, logs around the loop.

A stage brings `Parts`; everything that is the same for all stages is here. The same command starts
a run and goes on with it: what stands in `config.out` decides.

    OUT/config.json  log.jsonl  loss.png  tensorboard/  checkpoints/  model/ or adapter/
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from qwell.data.packing import every
from qwell.data.rows import RowSource
from qwell.errors import UsageError
from qwell.train.config import TrainConfig
from qwell.train.cost import Cost, measured_peak
from qwell.train.files import alone, write_whole
from qwell.train.logs import JsonLog, Screen, TensorBoard, Watcher
from qwell.train.loop import Evaluate, Event, Loop, Objective, Optimizer
from qwell.train.modules import Decoder
from qwell.train.run_checkpoint import RunCheckpoints, Saved
from qwell.train.snapshot import Saver, check_same, fingerprint, mix, restore
from qwell.train.world import World, copy_into, full, join, shard

MODEL, ADAPTER = "model", "adapter"
"""What a run leaves in its folder when it is done, one or the other."""


class Source(RowSource, Protocol):
    """Rows that know how far they are."""

    @property
    def epoch(self) -> float: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What a stage brings to a run. The model is whole and on the CPU; the run cuts it."""

    model: Decoder
    optimizer: Callable[[Decoder], Optimizer]
    """Made after the model is cut and the weights are those of the checkpoint."""
    source: Source
    objective: Objective
    cost: Cost
    total: int
    """Optimizer steps of the whole run."""
    evaluate: Callable[[Decoder, World], Evaluate | None]
    finish: Callable[[Decoder, Path], None]
    """Writes what was learnt into the run's folder; called by the first process alone, with the
    whole weights."""
    rebuild: Callable[[], Decoder]
    """The model again, before it was cut: to gather the weights into."""
    identity: Mapping[str, str] = field(default_factory=dict)
    """Hashes of what a run must not go on without: tokenizer, template, data."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    out: Path
    step: int
    is_done: bool
    evals: Mapping[str, float]


Build = Callable[[World], Parts]


def run(config: TrainConfig, build: Build) -> Result:
    """Runs, or goes on with, the run in config.out. Raises what its parts raise; StorageError
    before anything is computed if the folder cannot be written or another run is in it."""
    out = Path(config.out)
    with join() as world, alone(out) if world.is_first else nullcontext():
        check_world(config, world)
        set_threads(config, world)
        checkpoints = RunCheckpoints(out / "checkpoints", config.keep_last, config.keep_best)
        if world.is_first:
            if not checkpoints.steps():
                check_free(out)
            checkpoints.prepare()
        world.wait()
        seed_all(config.seed, world)
        with deterministic():
            return _run(config, build(world), checkpoints, world)


def _run(config: TrainConfig, parts: Parts, checkpoints: RunCheckpoints, world: World) -> Result:
    out, model = Path(config.out), parts.model
    notes = list(parts.notes)
    saved = checkpoints.newest(notes.append)
    hashes = {"weights": fingerprint(model), **parts.identity}
    if saved:
        check_same(config, hashes, saved)
        notes += _on_resuming(saved)
    if world.mesh is not None:
        shard(model, model.model.layers, world)
    source = parts.source if world.size == 1 else every(parts.source, world.rank, world.size)
    meter = _Meter(parts, world)
    loop = Loop(
        config,
        parts.total,
        model,
        parts.optimizer(model),
        source,
        meter,
        evaluate=parts.evaluate(model, world),
        save=Saver(config, checkpoints, hashes),
        watch=meter.watch,
        world=world,
    )
    if saved:
        restore(loop, saved)
    elif world.is_first:
        write_whole(out / "config.json", json.dumps(config.to_dict(), indent=1).encode())
    with ExitStack() as stack:
        if world.is_first:
            # Of a run without a checkpoint nothing counts.
            kept = loop.position.step if saved else -1
            meter.watchers += _watchers(config, out, kept, parts.total, stack)
        for text in notes:
            meter.watch({"kind": "note", "step": loop.position.step, "text": text})
        is_done = loop.run()
    if is_done:
        _finish(parts, loop, out, world)
    return Result(out, loop.position.step, is_done, loop.position.evals)


def _on_resuming(saved: Saved) -> list[str]:
    found = [f"going on from step {saved.step:,} in {saved.path}"]
    if saved.state["threads"] != torch.get_num_threads():
        found.append("with another number of threads sums round otherwise: not bit-equal")
    return found


def _finish(parts: Parts, loop: Loop, out: Path, world: World) -> None:
    from qwell.train.plots import plot_run

    whole = whole_model(loop.model, parts, world)
    if world.is_first:
        parts.finish(whole, out)
        plot_run(out)
    world.wait()


def whole_model(model: Any, parts: Parts, world: World) -> Decoder:
    """The model with whole weights, in the first process; the very model when nothing is cut."""
    if world.mesh is None:
        return parts.model
    values = {name: full(p.detach()) for name, p in model.named_parameters()}
    if not world.is_first:
        return parts.model
    whole = parts.rebuild()
    copy_into(dict(whole.named_parameters()), values)
    return whole


class _Meter:
    """Adds speed and MFU to the events of steps, from the rows its objective saw."""

    def __init__(self, parts: Parts, world: World) -> None:
        self._inner, self._cost, self._world = parts.objective, parts.cost, world
        self._source, self._flops = parts.source, 0.0
        self.watchers: list[Watcher] = []
        # All processes at once: they share the machine.
        self._peak = world.sum(measured_peak(next(parts.model.parameters()).dtype))[0]

    def weight(self, item: Any) -> int:
        return self._inner.weight(item)

    def loss(self, model: Any, item: Any, scale: float) -> Tensor:
        self._flops += self._cost.flops(item)
        return self._inner.loss(model, item, scale)

    def watch(self, event: Event) -> None:
        if event["kind"] == "step":
            # Ranks have about equal work: the first stands for all.
            mfu = self._flops * self._world.size / event["seconds"] / self._peak
            self._flops = 0.0
            speed = {"tok_per_s": event["tokens"] / event["seconds"], "mfu": mfu}
            event = {**event, **speed, "epoch": self._source.epoch}
        for watcher in self.watchers:
            watcher(event)


def check_free(out: Path) -> None:
    """Raises UsageError if what a new run leaves in `out` would replace something: only what an
    earlier end of the same run left is replaced."""
    for name in (MODEL, ADAPTER):
        for path in (out / f"{name}{suffix}" for suffix in ("", ".new", ".old")):
            if path.is_dir() and not any(path.iterdir()):
                continue
            if path.exists() or path.is_symlink():
                raise UsageError(
                    f"{path} is there but no checkpoint of this run: the run would replace it; "
                    "move it away, or give another --out"
                )


def check_world(config: TrainConfig, world: World) -> None:
    """Raises UsageError for what several processes cannot do."""
    if config.micro_batches % world.size:
        raise UsageError(
            f"{config.micro_batches} micro-batches a step cannot be dealt to {world.size} "
            f"processes: make --micro-batches a multiple of {world.size}"
        )
    if config.optimizer.startswith("8bit") and world.mesh is not None:
        raise UsageError(
            "8-bit optimizer state cannot be cut over processes: take --optimizer stochastic"
        )


def set_threads(config: TrainConfig, world: World) -> None:
    """torchrun sets one thread a process; the cores are shared evenly instead."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    torch.set_num_threads(config.threads or max(1, len(os.sched_getaffinity(0)) // local))


def seed_all(seed: int, world: World) -> None:
    """Every generator a part of a run might use."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(mix(seed, 0, world.rank))


@contextmanager
def deterministic() -> Iterator[None]:
    """The same bits every time on one machine with the same threads; it costs nothing on a CPU."""
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def _watchers(
    config: TrainConfig, out: Path, step: int, total: int, stack: ExitStack
) -> list[Watcher]:
    found: list[Watcher] = [JsonLog(out, step)]
    stack.callback(found[0].close)
    found.append(Screen(max(step, 0), total))
    if config.tensorboard:
        found.append(TensorBoard(out, step))
    for watcher in found[1:]:
        stack.callback(watcher.close)
    return found
