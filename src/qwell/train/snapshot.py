"""A loop as tensors and JSON, and back: what a checkpoint of a run holds.

Everything is whole in it, however many processes there are, so a run may go on with another number.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwell.errors import CheckpointError, DataError, UsageError
from qwell.train.config import TrainConfig
from qwell.train.loop import Loop, Position
from qwell.train.run_checkpoint import RunCheckpoints, Saved
from qwell.train.world import World, copy_into, cut, full, joined

MAY_CHANGE = frozenset(
    {
        "out",
        "eval_every",
        "save_every",
        "keep_last",
        "keep_best",
        "max_skips",
        "tensorboard",
        "threads",
    }
)
"""Fields a run may go on with other values of: none of them moves a weight."""
_DATA = {"data": "the content of --data", "valid": "the content of --valid"}


@dataclass(frozen=True)
class Saver:
    """Saves a loop: weights that learn, optimizer, random numbers, data position, guard."""

    config: TrainConfig
    checkpoints: RunCheckpoints
    hashes: Mapping[str, str]

    def __call__(self, loop: Loop, loss: float | None) -> None:
        groups = {
            "model": {n: full(p.detach()) for n, p in trained(loop.model).items()},
            "optimizer": optimizer_tensors(loop),
            "rng": rng_tensors(loop.world),
        }
        if loop.world.is_first:
            self.checkpoints.save(loop.position.step, groups, self._state(loop), loss=loss)
        loop.world.wait()

    def _state(self, loop: Loop) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "hashes": dict(self.hashes),
            "position": asdict(loop.position),
            "guard": loop.guard.state(),
            "data": loop.source.state(),
            "python_rng": random.getstate(),
            "numpy_rng": _numpy_state(),
            "processes": loop.world.size,
            "threads": torch.get_num_threads(),
        }


def trained(model: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def optimizer_tensors(loop: Loop) -> dict[str, Tensor]:
    """The optimizer's state with every part whole. The states of a cut parameter have one number
    for each of its own, in its order."""
    named = trained(loop.model)
    found = {}
    for key, value in loop.optimizer.state_dict().items():
        parameter = named.get(key.rpartition(".")[0])
        found[key] = value if parameter is None else joined(value, parameter)
    return found


def restore(loop: Loop, saved: Saved) -> None:
    """Puts a loop where `saved` stood. The number of processes may be another."""
    named = trained(loop.model)
    copy_into(named, saved.groups["model"])
    state = {}
    for key, value in saved.groups["optimizer"].items():
        parameter = named.get(key.rpartition(".")[0])
        state[key] = value if parameter is None else cut(value, parameter)
    loop.optimizer.load_state_dict(state)
    loop.position, loop.saved_at = Position(**saved.state["position"]), saved.step
    loop.guard.restore(saved.state["guard"])
    loop.source.restore(saved.state["data"])
    _restore_rng(saved, loop)


def rng_tensors(world: World) -> dict[str, Tensor]:
    """The state of torch's generator in every process."""
    every = world.gather(torch.get_rng_state())
    return {f"torch.{rank}": state for rank, state in enumerate(every)}


def _restore_rng(saved: Saved, loop: Loop) -> None:
    """A process that was not there before gets numbers of its own, from seed, step and rank."""
    version, inner, gauss = saved.state["python_rng"]
    random.setstate((version, tuple(inner), gauss))
    kind, keys, *rest = saved.state["numpy_rng"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    own = saved.groups["rng"].get(f"torch.{loop.world.rank}")
    if own is not None:
        torch.set_rng_state(own)
    else:
        torch.manual_seed(mix(loop.config.seed, saved.step, loop.world.rank))


def _numpy_state() -> list[Any]:
    state: Any = np.random.get_state(legacy=True)
    kind, keys, *rest = state
    return [kind, keys.tolist(), *rest]


def fingerprint(model: torch.nn.Module) -> str:
    """The hash of the weights that do not learn: adapters mean nothing on another base."""
    digest = hashlib.sha256()
    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    for name, tensor in [*frozen, *model.named_buffers()]:  # packed matrices are buffers
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_same(config: TrainConfig, hashes: Mapping[str, str], saved: Saved) -> None:
    """Raises UsageError if the run in the folder is another than the one asked for, DataError or
    CheckpointError if what stands under the same names has changed."""
    now, then = json.loads(json.dumps(config.to_dict())), saved.state["config"]
    changed = [k for k in now if k not in MAY_CHANGE and now[k] != then.get(k)]
    if changed:
        name = changed[0]
        raise UsageError(
            f"the run in {config.out} was started with {name} {then.get(name)!r}, not "
            f"{now[name]!r}: give the same, or another --out"
        )
    for name, digest in hashes.items():
        kept = saved.state["hashes"].get(name)
        if kept in (digest, None):  # None: an older qwell did not keep it
            continue
        if name in _DATA:
            raise DataError(
                f"{_DATA[name]} has changed since the run in {config.out} began: bring back its "
                "files as they were, or give another --out"
            )
        raise CheckpointError(
            f"the {name} of {config.model} is not what the run in {config.out} began with: "
            "give the same model, or another --out"
        )


def mix(*numbers: int) -> int:
    """A seed of 63 bits that depends on every one of the numbers."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
