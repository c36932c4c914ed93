"""Native kernels against their slow twins, and those against the reference, op by op; in every
form this CPU has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qwell._core import isa_available
from qwell.native.train import train_forms, train_kernels
from qwell.train import functions, kernels
from qwell.train.gemm import FEW, forward, product
from qwell.train.losses import cross_entropy
from qwell.train.optim import AdamW, AdamWConfig, grad_norm
from qwell.train.torch_ops import ragged_attention

pytestmark = pytest.mark.skipif(not train_forms(), reason="no AVX-512, or it is forced off")


@pytest.fixture(params=train_forms(), autouse=True)
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    with kernels.forced(request.param):
        yield request.param


ULP = 2**-7
"""Spacing of bf16 at one: two roundings to neighbours differ by as much, relatively."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).bfloat16()


def close(a: Tensor, b: Tensor, ulps: float = 1.01) -> None:
    a, b = a.float(), b.float()
    assert (a - b).abs().max() <= ulps * ULP * b.abs().max()
    assert (a - b).norm() <= 0.5 * ULP * b.norm()


SHAPES = [
    (1, 1, 1),
    (37, 45, 70),
    (32, 32, 32),
    (70, 33, 1100),
    (600, 17, 65),
    (1100, 96, 300),
    (1100, 96, 900),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("a_by_rows", [True, False])
@pytest.mark.parametrize("b_by_rows", [True, False])
def test_product(shape: tuple[int, int, int], a_by_rows: bool, b_by_rows: bool) -> None:
    m, n, k = shape
    a = normal(m, k) if a_by_rows else normal(k, m).t()
    b = normal(k, n, seed=1) if b_by_rows else normal(n, k, seed=1).t()
    bias = normal(n, seed=2)
    exact = a.double() @ b.double()
    y = kernels.product(a, b, bias=bias)
    bound = ULP / 2 * (exact + bias.double()).abs() + 1e-6 * k**0.5
    assert ((y.double() - exact - bias.double()).abs() <= bound * 1.01).all()
    more = normal(m, 4, seed=4), normal(n, 4, seed=5).t()
    both = exact + more[0].double() @ more[1].double()
    y = kernels.product(a, b, more=more)
    assert ((y.double() - both).abs() <= 1.01 * (ULP / 2 * both.abs() + 1e-6 * k**0.5)).all()
    start = normal(m, n, seed=3)
    z = kernels.product(a, b, out=start.clone(), add=True)
    whole = exact + start.double()
    assert ((z.double() - whole).abs() <= 1.01 * (ULP / 2 * whole.abs() + 1e-6 * k**0.5)).all()


def test_a_layer_is_not_rounded() -> None:
    x, weight, bias = normal(37, 70), normal(45, 70, seed=1), normal(45, seed=2)
    y = forward(x, weight, bias)
    exact = x.double() @ weight.double().t() + bias.double()
    assert y.dtype == torch.float32
    assert (y.double() - exact).abs().max() <= 1e-5
    more = normal(37, 4, seed=3), normal(45, 4, seed=4).t()
    y = forward(x, weight, bias, more)
    assert (y.double() - exact - more[0].double() @ more[1].double()).abs().max() <= 1e-5


@pytest.mark.parametrize("n", [1, FEW, FEW + 1])
def test_few_columns_are_computed_transposed(n: int) -> None:
    a, b = normal(200, 70), normal(70, n, seed=1)
    y = product(a, b)
    assert y.shape == (200, n)
    assert y.is_contiguous() == (n == 1 or n > FEW)
    exact = a.double() @ b.double()
    assert ((y.double() - exact).abs() <= 1.01 * (ULP / 2 * exact.abs() + 1e-5)).all()


def test_rounding_is_to_nearest_even_and_keeps_what_is_no_number() -> None:
    bits = torch.randint(-(2**31), 2**31 - 1, (100_003,), dtype=torch.int64).to(torch.int32)
    halves = (torch.arange(-(2**15), 2**15, dtype=torch.int32) << 16) + 0x8000
    x = torch.cat([bits, halves]).view(torch.float32)
    x = x[(x.abs() >= torch.finfo(torch.float32).tiny) | x.isnan()]
    y, expected = kernels.rounded(x), x.bfloat16()
    assert torch.equal(y[~x.isnan()], expected[~x.isnan()])
    assert y[x.isnan()].isnan().all()


def test_threads_do_not_change_a_bit() -> None:
    a, b = normal(700, 1500), normal(1500, 333, seed=1)
    both = kernels.product(a, b)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(kernels.product(a, b), both)
    finally:
        torch.set_num_threads(before)


def gradients(run: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The result and the gradient of every input, for a fixed gradient of the result."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = run(*leaves)
    y.backward(normal(*y.shape, seed=9).to(y.dtype) if y.ndim else None)
    return [y.detach(), *(x.grad for x in leaves)]


def angles(T: int, half: int) -> tuple[Tensor, Tensor]:
    angle = torch.from_numpy(np.random.default_rng(0).random((T, half), np.float32)) * 6
    return angle.cos(), angle.sin()


CASES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "linear": (functions.Linear.apply, (normal(37, 70), normal(45, 70, seed=1), normal(45))),
    "rms_norm": (
        lambda x, w: functions.RmsNorm.apply(x, w, 1e-6),
        (normal(37, 70), normal(70, seed=1)),
    ),
    "wide_norm": (
        lambda x, w: functions.RmsNorm.apply(x, w, 1e-6),
        (normal(37, 70).float(), normal(70, seed=1)),
    ),
    "heads_norm": (
        lambda x, w: functions.RmsNorm.apply(x, w, 1e-6),
        (normal(9, 3, 64), normal(64, seed=1)),
    ),
    "rope": (lambda x: functions.Rope.apply(x, *angles(11, 20)), (normal(11, 3, 40),)),
    "wide_rope": (
        lambda x: functions.Rope.apply(x, *angles(11, 20)),
        (normal(11, 3, 40).float() * 1.001,),
    ),
    "wide_silu_mul": (
        lambda g, u: functions.SiluMul.apply(g, u, torch.bfloat16),
        (3.003 * normal(37, 71).float(), 1.001 * normal(37, 71, seed=1).float()),
    ),
    "silu_mul": (
        lambda g, u: functions.SiluMul.apply(g, u, torch.bfloat16),
        (3 * normal(37, 71), normal(37, 71, seed=1)),
    ),
    "lora": (
        lambda x, a, b: functions.LoraLinear.apply(x, normal(45, 70, seed=1), None, a, b, 2.0),
        (normal(37, 70), normal(4, 70, seed=2), normal(45, 4, seed=3)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward_equal_the_slow_twin(name: str) -> None:
    run, inputs = CASES[name]
    fast = gradients(run, *inputs)
    with kernels.slow_twins():
        slow = gradients(run, *inputs)
    for a, b in zip(fast, slow, strict=True):
        close(a, b, ulps=2.01)
    assert [g.dtype for g in fast[1:]] == [x.dtype for x in inputs]


@pytest.mark.parametrize("heads", [(14, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("head_dim", [64, 128, 24])
def test_attention_equals_the_slow_twin(heads: tuple[int, int], head_dim: int) -> None:
    splits = torch.tensor([0, 37, 38, 300, 301 + 129], dtype=torch.int32)
    T, (N, K) = int(splits[-1]), heads
    inputs = normal(T, N, head_dim), 2 * normal(T, K, head_dim, seed=1), normal(T, K, head_dim)
    fast = gradients(lambda *x: functions.Attention.apply(*x, splits), *inputs)
    spans = list(pairwise(splits.tolist()))
    exact = gradients(lambda *x: ragged_attention(*(t.float() for t in x), spans), *inputs)
    for a, b in zip(fast, exact, strict=True):
        assert (a.float() - b.float()).norm() <= ULP * b.float().norm()
        assert (a.float() - b.float()).abs().max() <= 4 * ULP * b.float().abs().max()


@pytest.mark.parametrize("chunk_rows", [5, 64])
def test_cross_entropy_equals_the_slow_twin(chunk_rows: int) -> None:
    targets = torch.arange(37) * 7 % 331

    def run(hidden: Tensor, head: Tensor) -> Tensor:
        return cross_entropy(hidden, head, targets, scale=0.5, chunk_rows=chunk_rows)

    fast = gradients(run, normal(37, 70), normal(331, 70, seed=1))
    with kernels.slow_twins():
        slow = gradients(run, normal(37, 70), normal(331, 70, seed=1))
    assert fast[0].item() == pytest.approx(slow[0].item(), rel=1e-5)
    for a, b in zip(fast[1:], slow[1:], strict=True):
        close(a, b, ulps=2.01)


def test_a_target_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="target"):
        kernels.cross_entropy(normal(2, 8).float(), torch.tensor([1, 8]), 1.0)


@pytest.mark.parametrize("states", ["f32", "int8"])
@pytest.mark.parametrize("master", ["split", "none"])
@pytest.mark.parametrize("size", [1, 700, 256 * 40])
def test_adamw_equals_the_slow_twin(states: str, master: str, size: int) -> None:
    config = AdamWConfig(states=states, master=master)

    def run() -> AdamW:
        optimizer = AdamW([("w", nn.Parameter(normal(size, 1)))], config)
        for step in range(3):
            optimizer.parameters["w"].grad = normal(size, 1, seed=10 + step)
            optimizer.step(1e-2, grad_scale=0.7)
        return optimizer

    fast = run()
    with kernels.slow_twins():
        slow = run()
    a, b = (o.parameters["w"].detach().float() for o in (fast, slow))
    assert ((a - b).abs() <= 1.01 * ULP * b.abs()).all()
    assert (a != b).float().mean() <= 0.02
    for key in ("m", "v"):
        x, y = (o.states["w"][key].float() for o in (fast, slow))
        assert torch.allclose(x, y, rtol=1e-5, atol=1.0 if states == "int8" else 1e-7)
    assert fast.state_dict().keys() == slow.state_dict().keys()


def test_grad_norm_equals_the_slow_twin() -> None:
    weight = nn.Parameter(torch.empty(1000, 77, dtype=torch.bfloat16))
    weight.grad = normal(1000, 77)
    fast = grad_norm([weight])
    with kernels.slow_twins():
        assert grad_norm([weight]) == pytest.approx(fast, rel=1e-6)


@pytest.mark.parametrize(
    ("isa", "best"),
    [("avx2", None), ("avx512", "avx512"), ("avx512bf16", "avx512_bf16"), ("amx", "amx")],
)
def test_an_instruction_set_that_is_forced_off_is_not_used(
    isa: str, best: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isa not in isa_available():
        pytest.skip(f"this CPU has no {isa}")
    monkeypatch.setenv("QWELL_FORCE_ISA", isa)
    assert train_forms()[-1:] == ([best] if best else [])
    monkeypatch.setenv("QWELL_FORCE_ISA", "scalar")
    assert train_kernels(1) is None


def test_a_form_that_does_not_run_here_is_refused() -> None:
    with pytest.raises(ValueError, match="'neon' do not run here"):
        train_kernels(1, "neon")


def test_a_forked_process_has_kernels_of_its_own() -> None:
    """One that uses those of its parent waits for ever for threads that stayed behind."""
    script = """
import os, signal
import torch
from qwell.train import kernels
torch.set_num_threads(2)
x, y = torch.ones(64, 256), torch.empty(64, 256, dtype=torch.bfloat16)
def work() -> None:
    kernels.core().round(x.data_ptr(), x.numel(), y.data_ptr())
work()
if os.fork() == 0:
    signal.alarm(20)
    work()
    os._exit(7)
os._exit(os.waitstatus_to_exitcode(os.wait()[1]) % 256)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 7
