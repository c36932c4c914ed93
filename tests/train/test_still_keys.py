"""Training in bf16 rounds keys without the bias they share (`Rope.still`): values and gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from qwell.data.rows import Rows
from qwell.model.weights import Rope
from qwell.train import kernels
from qwell.train.modules import Decoder
from qwell.train.weights import init_decoder
from tests.model.tiny import make_config
from tests.train.test_ops import gradients
from tests.train.test_parity import documents, relative


def biased() -> Decoder:
    """As Qwen2.5: keys that are mostly a bias, in the channels that turn slowest."""
    config = make_config(head_dim=32, rope_theta=1e6)
    model = init_decoder(config, seed=0, dtype=torch.bfloat16)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for layer in model.model.layers:
            bias = rng.standard_normal((config.num_kv_heads, 32), np.float32)
            bias[:, [14, 15, 30, 31]] *= 150
            layer.self_attn.k_proj.bias.copy_(torch.from_numpy(bias.reshape(-1)))
            layer.self_attn.q_proj.weight *= 20
            layer.self_attn.k_proj.weight *= 20
    return model


def errors(model: Decoder, rows: Rows) -> tuple[float, float]:
    """Of the logits, and of the gradients of k_proj, from those in float32."""
    wide = copy.deepcopy(model).float()
    with torch.no_grad():
        logits = relative(model(rows.batch()).float(), wide(rows.batch()))
    (_, ours), (_, exact) = gradients(model, [rows]), gradients(wide, [rows])
    names = [name for name in ours if name.endswith("k_proj.weight")]
    return logits, max(relative(ours[n].float(), exact[n]) for n in names)


@pytest.mark.skipif(
    kernels.core() is None, reason="torch alone rounds what k_proj gives, bias and all"
)
def test_bf16_is_nearer_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model = biased()
    rows = documents(model.config)
    found = errors(model, rows)
    monkeypatch.setattr(Rope, "still", lambda self, bias: 0 * bias)
    whole = errors(model, rows)
    assert all(a < 0.5 * b for a, b in zip(found, whole, strict=True))
