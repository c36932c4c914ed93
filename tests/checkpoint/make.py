"""Writes tiny valid random Qwen2 checkpoints, for the tests of every room.

Folders are written byte by byte here; GGUF files come from the `gguf` package, an implementation
that is not ours. Formats that package cannot quantise (Q2_K .. Q6_K) get random blocks with sane
scales instead of the given numbers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
FORMATS = [
    "F32",
    "F16",
    "BF16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
]
K_FORMATS = FORMATS[-5:]


def tiny_config(**over: Any) -> dict[str, Any]:
    """A config.json of two small layers; hidden_size 64, so blocks of 32 fit. K formats need
    hidden_size and intermediate_size to be multiples of 256."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "eos_token_id": 95,
        "use_sliding_window": False,
    }
    return config | over


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the config."""
    D, F = config["hidden_size"], config["intermediate_size"]
    H = config.get("head_dim") or D // config["num_attention_heads"]
    q, kv = H * config["num_attention_heads"], H * config["num_key_value_heads"]
    layer = {
        "input_layernorm.weight": (D,),
        "self_attn.q_proj.weight": (q, D),
        "self_attn.q_proj.bias": (q,),
        "self_attn.k_proj.weight": (kv, D),
        "self_attn.k_proj.bias": (kv,),
        "self_attn.v_proj.weight": (kv, D),
        "self_attn.v_proj.bias": (kv,),
        "self_attn.o_proj.weight": (D, q),
        "post_attention_layernorm.weight": (D,),
        "mlp.gate_proj.weight": (F, D),
        "mlp.up_proj.weight": (F, D),
        "mlp.down_proj.weight": (D, F),
    }
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], D)}
    for i in range(config["num_hidden_layers"]):
        found |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    found["model.norm.weight"] = (D,)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], D)
    return found


def random_tensors(
    config: Mapping[str, Any], seed: int = 0, scale: float = 0.1
) -> dict[str, Floats]:
    """Normal weights and biases of the given scale; norms around one."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes(config).items():
        values = rng.standard_normal(shape, np.float32) * np.float32(scale)
        tensors[name] = values + np.float32(1) if "norm" in name else values
    return tensors


# --- folders --------------------------------------------------------------------------------


def encode(values: Floats, dtype: str) -> bytes:
    """Little-endian bytes; 'bf16' rounds to nearest even."""
    if dtype != "bf16":
        return values.astype({"f16": "<f2", "f32": "<f4"}[dtype]).tobytes()
    bits = values.astype("<f4").view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()


def write_safetensors(path: Path, tensors: Mapping[str, Floats], dtype: str = "bf16") -> Path:
    """One safetensors file."""
    header, buffer = {}, b""
    for name, values in tensors.items():
        raw = encode(values, dtype)
        header[name] = {
            "dtype": dtype.upper(),
            "shape": list(values.shape),
            "data_offsets": [len(buffer), len(buffer) + len(raw)],
        }
        buffer += raw
    return write_raw_safetensors(path, json.dumps(header | {"__metadata__": {}}), buffer)


def write_raw_safetensors(path: Path, header: str, buffer: bytes) -> Path:
    """A safetensors file with any header text, sound or not."""
    raw = header.encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + buffer)
    return path


def write_folder(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Floats],
    dtype: str = "bf16",
    shards: int = 1,
    generation: Mapping[str, Any] | None = None,
) -> Path:
    """A Hugging Face folder: config.json, weights in one file or in shards with an index."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(dict(config)))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(dict(generation)))
    if shards == 1:
        write_safetensors(path / "model.safetensors", tensors, dtype)
        return path
    weight_map = {}
    for i, part in enumerate(np.array_split(list(tensors), shards), 1):
        file = f"model-{i:05}-of-{shards:05}.safetensors"
        write_safetensors(path / file, {name: tensors[name] for name in part.tolist()}, dtype)
        weight_map |= dict.fromkeys(part.tolist(), file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


# --- GGUF -----------------------------------------------------------------------------------

# d = scale / divisor and dmin = ratio * d make random K blocks centred, of about that scale
_K_SCALES = {"Q2_K": (15, 1.5), "Q3_K": (43, 0), "Q4_K": (300, 7.5), "Q5_K": (600, 15.5)}


def random_blocks(dtype: str, blocks: int, seed: int = 0, scale: float = 0.1) -> Any:
    """uint8 [blocks, block bytes] of a K format: random fields, finite sane float16 scales."""
    layout = {
        "Q2_K": [("q", "u1", 80), ("d", "<f2"), ("dmin", "<f2")],
        "Q3_K": [("q", "u1", 108), ("d", "<f2")],
        "Q4_K": [("d", "<f2"), ("dmin", "<f2"), ("q", "u1", 140)],
        "Q5_K": [("d", "<f2"), ("dmin", "<f2"), ("q", "u1", 172)],
        "Q6_K": [("q", "u1", 208), ("d", "<f2")],
    }[dtype]
    rng = np.random.default_rng(seed)
    records = np.zeros(blocks, np.dtype(layout))
    records["q"] = rng.integers(0, 256, records["q"].shape)
    divisor, ratio = _K_SCALES.get(dtype, (1350, 0))
    records["d"] = d = scale / divisor * rng.uniform(0.5, 1.5, blocks)
    if "dmin" in records.dtype.names:
        records["dmin"] = d * ratio
    return records.view(np.uint8).reshape(blocks, -1)


def quantised(values: Floats, dtype: str, seed: int = 0) -> npt.NDArray[Any]:
    """The array GGUFWriter takes: float32 for F32, uint8 [..., row bytes] for all others."""
    kind = gguf.GGMLQuantizationType[dtype]
    if dtype not in K_FORMATS:
        raw = gguf.quants.quantize(values, kind)
        return raw if dtype == "F32" else raw.view(np.uint8)
    if values.shape[-1] % 256:
        raise ValueError(f"{dtype} needs rows of a multiple of 256, not {values.shape}")
    scale = float(values.std()) or 0.1
    return random_blocks(dtype, values.size // 256, seed, scale).reshape(*values.shape[:-1], -1)


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Floats],
    quant: Mapping[str, str] | None = None,
    tokens: Sequence[str] | None = None,
    merges: Sequence[str] | None = None,
    chat_template: str | None = None,
    *,
    name: str = "Qwen2.5 Tiny Instruct",
    split: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """A GGUF file. `quant` gives a format by tensor name, 'default' for other matrices; vectors
    are F32 unless named. Tokens spelled <|...|> become control tokens. `split` is the number of
    tensors a part (0 = one file); the first part's path comes back. `extra` adds keys:
    bool, int (as u32), float (as f32), str or a list."""
    quant = {"default": "Q8_0"} | dict(quant or {})
    writer = gguf.GGUFWriter(path, "qwen2", split_max_tensors=split)
    writer.add_name(name)
    _write_config(writer, config)
    if tokens is not None:
        _write_tokenizer(writer, tokens, merges or [], config.get("eos_token_id"))
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for key, value in (extra or {}).items():
        _write_key(writer, key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    for seed, (hf, values) in enumerate(tensors.items()):
        dtype = quant.get(hf, "F32" if values.ndim == 1 else quant["default"])
        raw_dtype = None if dtype == "F32" else gguf.GGMLQuantizationType[dtype]
        target = names.get_name(hf, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(target or hf, quantised(values, dtype, seed), raw_dtype=raw_dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return next(iter(sorted(path.parent.glob(f"{path.stem}-00001-of-*.gguf")))) if split else path


def _write_config(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])


def _write_tokenizer(
    writer: gguf.GGUFWriter, tokens: Sequence[str], merges: Sequence[str], eos: Any
) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(list(tokens))
    special = [t.startswith("<|") and t.endswith("|>") for t in tokens]
    writer.add_token_types([3 if s else 1 for s in special])
    writer.add_token_merges(list(merges))
    if eos is not None:
        writer.add_eos_token_id(eos)


def _write_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    adders = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string"}
    getattr(writer, adders.get(type(value), "add_array"))(key, value)
