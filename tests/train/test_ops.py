"""Every torch op equals the reference's in float32; packing and accumulation change nothing."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from qwell.data.rows import Rows
from qwell.model import decoder
from qwell.model.batch import Batch
from qwell.model.reference import Reference
from qwell.model.weights import build_weights
from qwell.train.losses import cross_entropy, token_logprobs
from qwell.train.modules import Decoder
from qwell.train.torch_ops import TorchOps
from qwell.train.weights import init_decoder
from tests.model.tiny import make_config, random_ids, random_tensors
from tests.train.test_parity import documents, relative


class Tapped(TorchOps):
    """Keeps what every op gives, in call order, as the reference's taps do."""

    def __init__(self, head_dim: int) -> None:
        super().__init__(head_dim)
        self.taps: list[torch.Tensor] = []


for _name in ("embed", "select", "rms_norm", "linear", "rope", "silu_mul", "attention"):

    def _tapped(self: Tapped, *args: object, _name: str = _name) -> torch.Tensor:
        value = getattr(TorchOps, _name)(self, *args)
        self.taps.append(value)
        return value

    setattr(Tapped, _name, _tapped)


@pytest.mark.parametrize("heads", [(4, 2), (2, 2), (7, 1)])
def test_every_op_equals_the_reference(heads: tuple[int, int]) -> None:
    config = make_config(num_attention_heads=heads[0], num_key_value_heads=heads[1])
    tensors = random_tensors(config)
    ours = Decoder(config)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(torch.from_numpy(tensors[name].array))
    batch = Batch.make([random_ids(config, n, seed=n) for n in (37, 1, 70)], logits="all")
    expected: list[np.ndarray] = []
    decoder.logits(Reference(config, expected), build_weights(config, tensors), batch)
    ours.ops = Tapped(config.head_dim)
    with torch.no_grad():
        ours(batch)
    assert len(ours.ops.taps) == len(expected) > 20
    for mine, theirs in zip(ours.ops.taps, expected):
        assert mine.dtype == torch.float32
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-4, atol=2e-5)


def gradients(model: Decoder, parts: list[Rows]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of micro-batches added up, every token weighing the same."""
    model.zero_grad()
    total = sum(rows.num_targets for rows in parts)
    loss = 0.0
    for rows in parts:
        targets = torch.from_numpy(rows.targets).long()
        part = model(rows.batch(), partial(cross_entropy, targets=targets, scale=1 / total))
        part.backward()
        loss += part.item()
    return loss, {name: p.grad.clone() for name, p in model.named_parameters()}


def alone(rows: Rows) -> list[Rows]:
    """Every document as a micro-batch of its own."""
    return [
        Rows(rows.input_ids[lo:hi], np.array([0, hi - lo], np.int32), rows.is_target[lo:hi])
        for lo, hi in rows.batch().spans()
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_equals_unpacked_and_micro_batches_one_batch(dtype: torch.dtype) -> None:
    model = init_decoder(make_config(), seed=0, dtype=dtype)
    rows = documents(model.config)
    loss, grads = gradients(model, [rows])
    parts_loss, parts = gradients(model, alone(rows))
    exact = dtype == torch.float32
    assert parts_loss == pytest.approx(loss, rel=1e-6 if exact else 1e-4)
    for name, grad in grads.items():
        assert relative(parts[name].float(), grad.float()) <= (1e-5 if exact else 2e-2), name


def test_a_document_never_sees_another() -> None:
    model = init_decoder(make_config(), seed=0)
    rows = documents(model.config)
    with torch.no_grad():
        before = model(rows.batch())
        rows.input_ids[: rows.row_splits[1]] = 0
        after = model(rows.batch())
    same = rows.batch().out_rows >= rows.row_splits[1]
    assert torch.equal(before[same], after[same])
    assert not torch.equal(before[~same], after[~same])


def test_recomputed_layers_give_the_same_bits() -> None:
    model = init_decoder(make_config(), seed=0, dtype=torch.bfloat16)
    rows = documents(model.config)
    loss, grads = gradients(model, [rows])
    model.ops.recompute = True
    again, recomputed = gradients(model, [rows])
    assert again == loss
    assert all(torch.equal(recomputed[name], grad) for name, grad in grads.items())


def test_token_logprobs_and_their_gradient() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(37, 16, requires_grad=True)
    head = torch.randn(97, 16, requires_grad=True)
    targets, weight = torch.arange(37) * 5 % 97, torch.randn(37)
    found = token_logprobs(hidden, head, targets, temperature=0.7, chunk_rows=8)
    (found * weight).sum().backward()
    grads = hidden.grad.clone(), head.grad.clone()
    hidden.grad = head.grad = None
    expected = (hidden @ head.t() / 0.7).log_softmax(-1)[torch.arange(37), targets]
    (expected * weight).sum().backward()
    assert torch.allclose(found, expected, atol=1e-5)
    assert relative(grads[0], hidden.grad) <= 1e-5
    assert relative(grads[1], head.grad) <= 1e-5


def test_a_loss_without_gradients_makes_none() -> None:
    model = init_decoder(make_config(), seed=0, dtype=torch.bfloat16)
    rows = documents(model.config)
    targets = torch.from_numpy(rows.targets).long()
    with torch.no_grad():
        quiet = model(rows.batch(), partial(cross_entropy, targets=targets))
    loud = model(rows.batch(), partial(cross_entropy, targets=targets))
    assert quiet.item() == loud.item()
    assert not quiet.requires_grad
