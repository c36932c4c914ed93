"""The processes of a run: one, or as many as `torchrun` started, with FSDP2 over them.

Gradients are summed, never averaged: gloo takes AVG in reduce-scatter for a sum without a word
(pytorch#162338), and a step is weighted by tokens anyway: the loss of each micro-batch is divided
by the targets of the whole step before its backward pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True)
class World:
    """Process `rank` of `size`; mesh is None for one process that torchrun did not start."""

    rank: int = 0
    size: int = 1
    mesh: Any = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """The process that writes files and speaks."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the processes, in float64 and in the order of ranks."""
        if self.size == 1:
            return [float(value) for value in values]
        every = self.gather(torch.tensor(values, dtype=torch.float64))
        return [float(value) for value in torch.stack(every).sum(0)]

    def gather(self, own: Tensor) -> list[Tensor]:
        """Every process's tensor of that shape, by rank, on the CPU."""
        if self.size == 1:
            return [own]
        there = own.to(self.device)
        every = [torch.empty_like(there) for _ in range(self.size)]
        dist.all_gather(every, there)
        return [tensor.cpu() for tensor in every]

    def settle(self, model: nn.Module) -> None:
        """Lets go of whole parameters that a forward pass without a backward pass left gathered:
        the model's parameters are this process's parts again."""
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join() -> Iterator[World]:
    """The world torchrun described in the environment, or the one process this is."""
    if "WORLD_SIZE" not in os.environ:
        yield World()
        return
    kind, backend, device = "cpu", "gloo", torch.device("cpu")
    if torch.cuda.is_available():
        kind, backend = "cuda", "nccl"
        device = torch.device(kind, int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    try:
        mesh = init_device_mesh(kind, (dist.get_world_size(),))
        yield World(dist.get_rank(), dist.get_world_size(), mesh, device)
    finally:
        dist.destroy_process_group()


def shard(model: nn.Module, layers: Any, world: World) -> None:
    """Cuts the parameters of `model` over the processes (FSDP2), layer by layer; embedding, norm
    and head form the root group, so the tied head stays one parameter."""
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    model.to(world.device)
    # Angles are float32 and must stay so (torchtitan#2881).
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    for layer in layers:
        fully_shard(layer, mesh=world.mesh, mp_policy=policy)
    fully_shard(model, mesh=world.mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be cut. Every process must call it, in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(whole: Tensor, example: Tensor) -> Tensor:
    """`whole`, cut as `example` is."""
    if not isinstance(example, DTensor):
        return whole.to(example.device)
    return distribute_tensor(
        whole.to(example.device), example.device_mesh, example.placements, src_data_rank=None
    )


def joined(state: Tensor, parameter: Tensor) -> Tensor:
    """The whole of a flat state [numbers of this process's part of `parameter`]. Collective."""
    if not isinstance(parameter, DTensor):
        return state
    wide = state.to(torch.int32) if state.dtype == torch.int16 else state  # gloo knows no int16
    part = DTensor.from_local(
        wide.view(parameter.to_local().shape),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    return part.full_tensor().reshape(-1).to(state.dtype)


def cut(state: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a flat state of the whole parameter."""
    if not isinstance(parameter, DTensor):
        return state
    part = like(state.view(parameter.shape), parameter)
    assert isinstance(part, DTensor)
    return part.to_local().reshape(-1)


def copy_into(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Sets parameters to whole values by name. The names must be the same."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(like(values[name], parameter))
