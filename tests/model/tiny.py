"""Tiny random models in memory, for tests that need a decoder but no file.

Weights are scaled so that activations stay near one and logits are O(1..10), as in a trained
model: an error bound means nothing on logits that are all zero or all a thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwell.config import ModelConfig
from qwell.model.reference import ReferenceModel
from qwell.model.weights import build_weights

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FloatTensor:
    """A float32 array with the face of a stored tensor."""

    name: str
    array: F32
    dtype: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def data(self) -> NDArray[np.uint8]:
        return self.array.reshape(-1).view(np.uint8)

    def float32(self, start: int = 0, stop: int | None = None) -> F32:
        return self.array[start:stop]


def make_config(**overrides: Any) -> ModelConfig:
    """Two layers, four query heads on two kv heads of 8, a vocabulary of 97."""
    values: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
    }
    return ModelConfig(**(values | overrides))


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint by its Hugging Face name."""
    D, F, V = config.hidden_size, config.intermediate_size, config.vocab_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (V, D)}
    for i in range(config.num_layers):
        at = f"model.layers.{i}."
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            found[f"{at}self_attn.{name}_proj.weight"] = (rows, D)
            found[f"{at}self_attn.{name}_proj.bias"] = (rows,)
        found[f"{at}self_attn.o_proj.weight"] = (D, q)
        found[f"{at}mlp.gate_proj.weight"] = found[f"{at}mlp.up_proj.weight"] = (F, D)
        found[f"{at}mlp.down_proj.weight"] = (D, F)
        found[f"{at}input_layernorm.weight"] = (D,)
        found[f"{at}post_attention_layernorm.weight"] = (D,)
    found["model.norm.weight"] = (D,)
    if not config.tie_word_embeddings:
        found["lm_head.weight"] = (V, D)
    return found


def random_tensors(config: ModelConfig, seed: int = 0) -> dict[str, FloatTensor]:
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> F32:
        x = rng.standard_normal(shape)
        if name.endswith("norm.weight"):
            x = 1 + 0.2 * x
        elif name.endswith("bias"):
            x = 0.5 * x
        else:  # the head (or the tied embedding) gives logits of standard deviation 3
            wide = "embed" in name or "lm_head" in name
            x = x * ((3.0 if wide else 1.0) / np.sqrt(shape[1]))
        return np.ascontiguousarray(x, dtype=np.float32)

    return {name: FloatTensor(name, draw(name, shape)) for name, shape in shapes(config).items()}


def random_model(config: ModelConfig | None = None, seed: int = 0) -> ReferenceModel:
    config = config or make_config()
    return ReferenceModel(build_weights(config, random_tensors(config, seed)))


def random_ids(config: ModelConfig, count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, config.vocab_size, count).tolist()
