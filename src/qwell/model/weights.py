"""Named tensors -> the tree of handles the decoder walks.

A `Matrix` or `Vector` keeps the stored tensor beside its name; nothing is dequantised here.
The tree has the attribute names of the checkpoint, so a new tensor is one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qwell.config import ModelConfig

F32 = NDArray[np.float32]

STILL_TOKENS = 32_768
"""See `Rope.still`: the context of Qwen2.5."""


class Stored(Protocol):
    """A tensor as some file holds it (`checkpoint.Tensor`), or as a test makes it."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def data(self) -> NDArray[np.uint8]: ...
    def float32(self, start: int = 0, stop: int | None = None) -> F32: ...


class LowRank(Protocol):
    """What an adapter adds to a linear: b (a x), with any scale already in b (arXiv:2106.09685)."""

    @property
    def a(self) -> Stored:
        """[r, in]"""

    @property
    def b(self) -> Stored:
        """[out, r]"""


@dataclass(frozen=True, eq=False)
class Linear:
    """A matrix [out, in], its bias [out] or None, its adapter or None."""

    weight: Stored
    bias: Stored | None = None
    adapter: LowRank | None = None


@dataclass(frozen=True, eq=False)
class Norm:
    """The weight of an RMSNorm [length] and its eps."""

    weight: Stored
    eps: float


@dataclass(frozen=True, eq=False)
class Embedding:
    """[vocab_size, hidden_size]; a row is gathered for each input id."""

    weight: Stored


@dataclass(frozen=True, eq=False)
class Rope:
    """Rotary angles: inv_freq[i] = theta^(-2i/H), i < H/2."""

    head_dim: int
    theta: float

    @property
    def inv_freq(self) -> F32:
        """[H/2] float32, computed in float64 and rounded once."""
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        return (self.theta**-exponents).astype(np.float32)

    def still(self, bias: F32) -> F32:
        """bias [..., H] of keys, where it is turned by at most a radian in 32,768 tokens; else 0.

        Keys of Qwen2.5 are small changes of a large bias, whose large channels turn that slowly.
        A vector that all keys have in common changes all scores of a query alike, which softmax
        does not see: so who rounds keys takes this off before, and rounds far less away."""
        return np.where(np.tile(self.inv_freq, 2) * STILL_TOKENS <= 1, bias, np.float32(0))


@dataclass(frozen=True, eq=False)
class Attention:
    """The projections of one layer; q_norm and k_norm are Qwen3's."""

    layer: int
    q_proj: Linear
    k_proj: Linear
    v_proj: Linear
    o_proj: Linear
    q_norm: Norm | None = None
    k_norm: Norm | None = None


@dataclass(frozen=True, eq=False)
class Mlp:
    """The three matrices of the gated MLP."""

    gate_proj: Linear
    up_proj: Linear
    down_proj: Linear


@dataclass(frozen=True, eq=False)
class Layer:
    """One decoder layer."""

    self_attn: Attention
    mlp: Mlp
    input_layernorm: Norm
    post_attention_layernorm: Norm


@dataclass(frozen=True, eq=False)
class Weights:
    """Everything `decoder.logits` needs. lm_head is the embedding's matrix when tied."""

    config: ModelConfig
    rope: Rope
    embed_tokens: Embedding
    layers: tuple[Layer, ...]
    norm: Norm
    lm_head: Linear


def build_weights(
    config: ModelConfig,
    tensors: Mapping[str, Stored],
    adapters: Mapping[str, LowRank] | None = None,
) -> Weights:
    """The tree over `tensors` (Hugging Face names); `adapters` by the linear they belong to, as in
    model.layers.0.self_attn.q_proj. Raises KeyError for a missing tensor: `checkpoint` has
    checked names and shapes before."""
    added = adapters or {}

    def norm(name: str) -> Norm:
        return Norm(tensors[f"{name}.weight"], config.rms_norm_eps)

    def linear(name: str) -> Linear:
        weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
        return Linear(weight, bias, added.get(name))

    def layer(i: int) -> Layer:
        at, attn, mlp = (f"model.layers.{i}{part}" for part in ("", ".self_attn", ".mlp"))
        return Layer(
            Attention(
                i,
                linear(f"{attn}.q_proj"),
                linear(f"{attn}.k_proj"),
                linear(f"{attn}.v_proj"),
                linear(f"{attn}.o_proj"),
            ),
            Mlp(linear(f"{mlp}.gate_proj"), linear(f"{mlp}.up_proj"), linear(f"{mlp}.down_proj")),
            norm(f"{at}.input_layernorm"),
            norm(f"{at}.post_attention_layernorm"),
        )

    embed = tensors["model.embed_tokens.weight"]
    return Weights(
        config=config,
        rope=Rope(config.head_dim, config.rope_theta),
        embed_tokens=Embedding(embed),
        layers=tuple(layer(i) for i in range(config.num_layers)),
        norm=norm("model.norm"),
        lm_head=Linear(tensors.get("lm_head.weight", embed)),
    )
