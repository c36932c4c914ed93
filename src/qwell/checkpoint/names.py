"""What a Qwen2 checkpoint holds: the checked config, and every tensor with its shape.

The list is written once (`expected`) in Hugging Face names; GGUF names are mapped to them. The
check is lazy, so a config that claims a billion layers costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qwell.checkpoint.mapped import quoted
from qwell.checkpoint.tensor import Tensor
from qwell.config import ModelConfig
from qwell.errors import CheckpointError

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

_TOP = {"token_embd.weight": EMBEDDING, "output_norm.weight": NORM, "output.weight": HEAD}

_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


def model_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """The config in Hugging Face keys; every fault becomes a CheckpointError naming the file."""
    try:
        return ModelConfig.from_dict(raw, str(path))
    except CheckpointError as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from error
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: a key has the wrong type ({error})") from error


def from_gguf(name: str) -> str:
    """The Hugging Face name of a GGUF tensor; a name that is not Qwen2's comes back as it is."""
    match = re.fullmatch(r"blk\.(0|[1-9][0-9]{0,8})\.(.+)", name)
    if match and match[2] in _LAYER:
        return f"model.layers.{match[1]}.{_LAYER[match[2]]}"
    return _TOP.get(name, name)


def to_gguf(name: str) -> str:
    """The GGUF name of a Hugging Face tensor name; KeyError if Qwen2 has no such tensor."""
    match = re.fullmatch(r"model\.layers\.([0-9]+)\.(.+)", name)
    if match:
        return f"blk.{match[1]}.{_LAYER_BACK[match[2]]}"
    return _TOP_BACK[name]


_LAYER_BACK = {hf: gguf for gguf, hf in _LAYER.items()}
_TOP_BACK = {hf: gguf for gguf, hf in _TOP.items()}


def expected(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor the checkpoint must hold, in the order of use."""
    D, F, V = config.hidden_size, config.intermediate_size, config.vocab_size
    q = config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    yield EMBEDDING, (V, D)
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (D,)
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            yield f"{prefix}self_attn.{name}_proj.weight", (rows, D)
            yield f"{prefix}self_attn.{name}_proj.bias", (rows,)
        yield prefix + "self_attn.o_proj.weight", (D, q)
        yield prefix + "post_attention_layernorm.weight", (D,)
        yield prefix + "mlp.gate_proj.weight", (F, D)
        yield prefix + "mlp.up_proj.weight", (F, D)
        yield prefix + "mlp.down_proj.weight", (D, F)
    yield NORM, (D,)
    if not config.tie_word_embeddings:
        yield HEAD, (V, D)


def checked(config: ModelConfig, found: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors of the model, in the order of `expected`.

    Old exports store `rotary_emb.inv_freq`, which config.rope_theta states better, and some
    store a copy of the embedding as the head of a tied model; both are left out. Raises
    CheckpointError naming the tensor if one is missing, has another shape, or is unknown."""
    tensors = {}
    for name, shape in expected(config):
        tensor = found.get(name)
        if tensor is None:
            raise CheckpointError(
                f"{where}: tensor {name} is missing; the files are incomplete, fetch them again"
            )
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.source}: tensor {name} has shape {tensor.shape}, "
                f"the config asks for {shape}; the files do not belong together"
            )
        tensors[name] = tensor
    for name, tensor in found.items():
        if name in tensors or name == HEAD or name.endswith("rotary_emb.inv_freq"):
            continue
        raise CheckpointError(
            f"{tensor.source}: tensor {quoted(name)} is not part of a Qwen2 model with "
            f"{config.num_layers} layers; this is another architecture or the wrong config"
        )
    return tensors
