"""The torch back end is Qwen2: logits, loss and every gradient equal transformers' in float32."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from qwell.config import ModelConfig
from qwell.data.rows import Rows
from qwell.train.losses import cross_entropy
from qwell.train.modules import Decoder
from tests.model.tiny import make_config, random_ids, random_tensors
from tests.parity.hf import oracle

LENGTHS = [37, 5, 70]
CONFIGS = [
    make_config(),
    make_config(tie_word_embeddings=False, num_attention_heads=2, num_key_value_heads=2),
    make_config(num_attention_heads=14, num_key_value_heads=2, head_dim=16, hidden_size=224),
    make_config(head_dim=64, rms_norm_eps=1e-2, rope_theta=1e4, num_hidden_layers=3),
]


def pair(config: ModelConfig, seed: int = 3) -> tuple[Decoder, Any]:
    """Ours and theirs over the same random weights."""
    tensors = {name: t.array for name, t in random_tensors(config, seed).items()}
    ours = Decoder(config)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(torch.from_numpy(tensors[name]))
    return ours, oracle(config, tensors.items())


def documents(config: ModelConfig, seed: int = 0) -> Rows:
    """Three documents, a random half of their tokens learnt."""
    rng = np.random.default_rng(seed)
    ids = [np.array(random_ids(config, n, seed=n), np.int32) for n in LENGTHS]
    splits = np.cumsum([0, *LENGTHS]).astype(np.int32)
    is_target = rng.random(int(splits[-1])) < 0.5
    is_target[splits[:-1]] = False
    return Rows(np.concatenate(ids), splits, is_target)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_equal_transformers(config: ModelConfig, recompute: bool) -> None:
    ours, theirs = pair(config)
    ours.ops.recompute = recompute
    rows = documents(config)
    targets = torch.from_numpy(rows.targets).long()
    loss = ours(
        rows.batch(),
        partial(cross_entropy, targets=targets, scale=1 / rows.num_targets, chunk_rows=16),
    )
    loss.backward()

    expected = torch.zeros(())
    for lo, hi in rows.batch().spans():  # one document at a time: they cannot see one another
        ids = torch.from_numpy(rows.input_ids[lo:hi]).long()
        labels = torch.where(torch.from_numpy(rows.is_target[lo:hi]), ids, -100)
        logits = theirs(input_ids=ids[None], use_cache=False).logits[0]
        expected = expected + torch.nn.functional.cross_entropy(
            logits[:-1], labels[1:], ignore_index=-100, reduction="sum"
        )
    expected = expected / rows.num_targets
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    grads = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert relative(parameter.grad, grads[name].grad) <= 1e-5, name


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_logits_equal_transformers(config: ModelConfig) -> None:
    ours, theirs = pair(config)
    rows = documents(config)
    with torch.no_grad():
        logits = ours(rows.batch())
        expected = torch.cat(
            [
                theirs(input_ids=torch.from_numpy(rows.input_ids[lo:hi]).long()[None]).logits[0]
                for lo, hi in rows.batch().spans()
            ]
        )
    assert (logits - expected[rows.batch().out_rows]).abs().max() <= 1e-4
