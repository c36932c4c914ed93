"""AdamW against torch's own; bf16 with a split master is float32 to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qwell.train import kernels
from qwell.train.optim import AdamW, AdamWConfig, clip_scale, grad_norm
from tests.train.test_parity import relative

STEPS = 20


def run(dtype: torch.dtype, **config: object) -> tuple[torch.Tensor, AdamW]:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(30, 37).bfloat16().to(dtype))
    optimizer = AdamW([("w", weight)], AdamWConfig(**config))
    for step in range(STEPS):
        torch.manual_seed(step)
        weight.grad = torch.randn(30, 37).bfloat16().to(dtype)
        optimizer.step(1e-3)
    return weight.detach(), optimizer


def test_float32_equals_torch() -> None:
    ours, _ = run(torch.float32)
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(30, 37).bfloat16().float())
    theirs = torch.optim.AdamW([weight], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(STEPS):
        torch.manual_seed(step)
        weight.grad = torch.randn(30, 37).bfloat16().float()
        theirs.step()
    assert torch.allclose(ours, weight.detach(), rtol=0, atol=1e-6)


def test_a_split_master_is_float32_to_the_bit() -> None:
    with kernels.slow_twins():  # the native one fuses multiply and add: other last bits
        exact, _ = run(torch.float32)
        _, optimizer = run(torch.bfloat16)
    assert torch.equal(whole(optimizer), exact)


def test_stochastic_rounding_is_unbiased_and_repeatable() -> None:
    exact, _ = run(torch.float32)
    rounded, _ = run(torch.bfloat16, master="none")
    assert torch.equal(rounded, run(torch.bfloat16, master="none")[0])
    assert not torch.equal(rounded, run(torch.bfloat16, master="none", seed=1)[0])
    error = rounded.float() - exact
    assert abs(error.mean()) < 4 * error.std() / error.numel() ** 0.5


def whole(optimizer: AdamW) -> torch.Tensor:
    """The float32 master: the weight's bits and the lower half."""
    weight, low = optimizer.parameters["w"].detach(), optimizer.states["w"]["low"]
    return ((weight.view(torch.int16).int() << 16) + low.view(weight.shape)).view(torch.float32)


def test_8_bit_states_follow_float32() -> None:
    torch.manual_seed(0)
    start = torch.randn(30, 37).bfloat16().float()
    exact, _ = run(torch.float32)
    _, optimizer = run(torch.bfloat16, states="int8")
    assert 0 < relative(whole(optimizer) - start, exact - start) < 0.05


@pytest.mark.parametrize("states", ["f32", "int8"])
def test_state_comes_back(states: str) -> None:
    _, optimizer = run(torch.bfloat16, states=states)
    weight = nn.Parameter(optimizer.parameters["w"].detach().clone())
    again = AdamW([("w", weight)], optimizer.config)
    again.load_state_dict(optimizer.state_dict())
    for o in (optimizer, again):
        o.parameters["w"].grad = torch.ones(30, 37).bfloat16()
        o.step(1e-3)
    assert torch.equal(weight, optimizer.parameters["w"])


def test_clipping() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert grad_norm([weight]) == pytest.approx(5.0)
    assert clip_scale(5.0, 1.0) == pytest.approx(0.2)
    assert clip_scale(0.5, 1.0) == 1.0
