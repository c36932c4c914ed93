"""build_weights: the tree carries the checkpoint's names; tied and untied heads; RoPE."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qwell.model.weights import Rope, build_weights
from tests.model.tiny import make_config, random_tensors


def test_every_tensor_is_used_under_its_own_name() -> None:
    config = make_config(tie_word_embeddings=False)
    tensors = random_tensors(config)
    w = build_weights(config, tensors)
    used = {w.embed_tokens.weight.name, w.norm.weight.name, w.lm_head.weight.name}
    for i, layer in enumerate(w.layers):
        assert layer.self_attn.layer == i
        for room in (layer.self_attn, layer.mlp):
            for name in (
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "up_proj",
                "down_proj",
            ):
                if (linear := getattr(room, name, None)) is not None:
                    assert linear.weight.name.startswith(f"model.layers.{i}.")
                    assert linear.weight.name.endswith(f".{name}.weight")
                    used |= {linear.weight.name} | ({linear.bias.name} if linear.bias else set())
        for name in ("input_layernorm", "post_attention_layernorm"):
            norm = getattr(layer, name)
            assert norm.weight.name == f"model.layers.{i}.{name}.weight"
            assert norm.eps == config.rms_norm_eps
            used.add(norm.weight.name)
    assert used == set(tensors)


def test_only_q_k_v_have_a_bias() -> None:
    config = make_config()
    layer = build_weights(config, random_tensors(config)).layers[0]
    attn, mlp = layer.self_attn, layer.mlp
    assert all(x.bias is not None for x in (attn.q_proj, attn.k_proj, attn.v_proj))
    assert all(x.bias is None for x in (attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj))


@pytest.mark.parametrize("tied", [True, False])
def test_head_is_the_embedding_only_when_the_file_has_none(tied: bool) -> None:
    config = make_config(tie_word_embeddings=tied)
    w = build_weights(config, random_tensors(config))
    assert (w.lm_head.weight is w.embed_tokens.weight) == tied


def test_a_file_with_its_own_head_keeps_it_even_when_the_config_says_tied() -> None:
    # The official GGUF files carry output.weight beside token_embd.weight.
    tensors = random_tensors(make_config(tie_word_embeddings=False))
    w = build_weights(make_config(tie_word_embeddings=True), tensors)
    assert w.lm_head.weight is tensors["lm_head.weight"]


def test_a_missing_tensor_is_a_key_error() -> None:
    config = make_config()
    tensors = random_tensors(config)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(KeyError, match=r"model\.layers\.1\.mlp\.up_proj"):
        build_weights(config, tensors)


@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_inv_freq(theta: float) -> None:
    inv_freq = Rope(64, theta).inv_freq
    assert inv_freq.dtype == np.float32
    expected = [math.exp(-2 * i / 64 * math.log(theta)) for i in range(32)]
    np.testing.assert_allclose(inv_freq, expected, rtol=1e-6)
