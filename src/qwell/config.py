"""What a model is: the keys of config.json and generation_config.json, checked once.

Field names are the checkpoint's own (Hugging Face), so a loader needs no map. What this version
cannot compute is refused here by name instead of being ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qwell.errors import CheckpointError, UnsupportedModelError

REAL_VOCAB_SIZE = 151_665
"""Ids 151,665 and up are untrained padding rows of every Qwen2.5; the sampler masks them."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture of one Qwen2.5 checkpoint."""

    vocab_size: int
    """Rows of the embedding, padding included: 151,936 or 152,064."""
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    model_type: str = "qwen2"

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
                raise CheckpointError(f"config: {name} is {value!r}, not a positive integer")
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"config: num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"config: head_dim {self.head_dim} is odd; RoPE needs pairs")
        if not 0 < self.rms_norm_eps < 1 or not 1 < self.rope_theta < 1e12:
            raise CheckpointError(
                f"config: rms_norm_eps {self.rms_norm_eps} or rope_theta {self.rope_theta} "
                "is out of range"
            )

    @property
    def num_layers(self) -> int:
        return self.num_hidden_layers

    @property
    def num_heads(self) -> int:
        return self.num_attention_heads

    @property
    def num_kv_heads(self) -> int:
        return self.num_key_value_heads

    @property
    def num_parameters(self) -> int:
        """Weights and biases of the checkpoint, counted from the shapes."""
        D, F, H = self.hidden_size, self.intermediate_size, self.head_dim
        q, kv = self.num_heads * H, self.num_kv_heads * H
        layer = D * (q + 2 * kv) + q + 2 * kv + q * D + 3 * D * F + 2 * D
        embeddings = self.vocab_size * D * (1 if self.tie_word_embeddings else 2)
        return self.num_layers * layer + embeddings + D

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """Reads config.json. Raises CheckpointError for a missing or absurd key,
        UnsupportedModelError for what is not built yet (`where` names the file)."""
        _refuse_foreign(raw, where)
        rope = raw.get("rope_parameters") or {}
        values = {name: raw.get(name) for name in _COUNTS if name != "head_dim"}
        # Who reads Qwen2 without it disagrees on what it is then: 1e4 (transformers) or 1e6 (vLLM).
        values["rope_theta"] = rope.get("rope_theta") or raw.get("rope_theta")
        missing = [name for name, value in values.items() if value is None]
        if missing:
            raise CheckpointError(f"{where}: the key {missing[0]} is missing")
        heads, hidden = values["num_attention_heads"], values["hidden_size"]
        if not isinstance(heads, int) or not isinstance(hidden, int) or heads <= 0:
            raise CheckpointError(f"{where}: hidden_size or num_attention_heads is not a number")
        head_dim = raw.get("head_dim") or hidden // heads
        if not raw.get("head_dim") and hidden % heads:
            raise CheckpointError(
                f"{where}: hidden_size {hidden} is not divisible by {heads} heads"
            )
        tied = raw.get("tie_word_embeddings") or False
        if not isinstance(tied, bool):
            raise CheckpointError(
                f"{where}: tie_word_embeddings is {tied!r:.40}, not true or false"
            )
        try:
            return cls(
                **values | {"rope_theta": float(values["rope_theta"])},  # type: ignore[arg-type]
                head_dim=head_dim,
                rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
                tie_word_embeddings=tied,
            )
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Defaults of generation_config.json: how the makers of the model sample from it."""

    eos_token_ids: tuple[int, ...] = (151_645, 151_643)
    """Every id that ends a reply: the union of what the files of the model name."""
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    repetition_penalty: float = 1.0
    do_sample: bool = True

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> GenerationConfig:
        eos = raw.get("eos_token_ids", raw.get("eos_token_id", (151_645, 151_643)))
        ids = (eos,) if isinstance(eos, int) else tuple(int(i) for i in eos)
        return cls(
            eos_token_ids=ids,
            temperature=float(raw.get("temperature", 1.0)),
            top_p=float(raw.get("top_p", 1.0)),
            top_k=int(raw.get("top_k", 0)),
            repetition_penalty=float(raw.get("repetition_penalty", 1.0)),
            do_sample=bool(raw.get("do_sample", False)),
        )


_COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


def _refuse_foreign(raw: Mapping[str, Any], where: str) -> None:
    """Refuses by name what would run but give wrong answers if it were ignored."""
    model_type = raw.get("model_type")
    if model_type != "qwen2":
        raise UnsupportedModelError(
            f"{where}: model_type {model_type!r} is not supported; qwell runs 'qwen2' models"
        )
    for key in ("rope_scaling", "rope_parameters"):
        kind = _rope_kind(raw.get(key) or {})
        if kind != "default":
            raise UnsupportedModelError(
                f"{where}: {key} {kind!r} is not supported yet; "
                "remove it to run within the native context"
            )
    if raw.get("use_sliding_window"):
        raise UnsupportedModelError(
            f"{where}: use_sliding_window is true; sliding windows are not supported yet"
        )
    if raw.get("is_causal") is False:
        raise UnsupportedModelError(f"{where}: is_causal is false; qwell runs causal models")
    for key in ("dual_chunk_attention_config", "quantization_config"):
        if raw.get(key):
            raise UnsupportedModelError(f"{where}: {key} is not supported yet")
    if raw.get("hidden_act", "silu") != "silu":
        raise UnsupportedModelError(f"{where}: hidden_act {raw['hidden_act']!r} is not supported")


def _rope_kind(rope: Any) -> str:
    """Without a type it must state nothing but theta: neither a factor nor a rope a layer type."""
    if not isinstance(rope, Mapping):
        return "that is no object"
    kind = rope.get("rope_type") or rope.get("type")
    is_more = "factor" in rope or any(isinstance(value, Mapping) for value in rope.values())
    return str(kind or ("of no type" if is_more else "default"))
