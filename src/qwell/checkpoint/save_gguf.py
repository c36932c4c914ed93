"""A model -> one GGUF file that llama.cpp and qwell open.

The format is drawn in gguf.py. Keys and tensor names are those llama.cpp reads for qwen2; vectors
(norms, biases) stay F32 as its converter keeps them. Takes the tokenizer as `tokenizer.*` keys.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qwell.checkpoint.appear import appearing_file, check_space
from qwell.checkpoint.encode import Source, encoded, encoded_bytes
from qwell.checkpoint.mapped import U32, U64
from qwell.checkpoint.names import to_gguf
from qwell.config import GenerationConfig, ModelConfig

FILE_TYPES = {"f32": 0, "q8_0": 7, "bf16": 32}
"""Formats of the matrices -> general.file_type."""
_ALIGNMENT = 32
_GGML_TYPES = {"F32": 0, "Q8_0": 8, "BF16": 30}
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


def write_gguf(
    path: Path,
    config: ModelConfig,
    generation: GenerationConfig,
    tensors: Mapping[str, Source],
    *,
    dtype: str = "bf16",
    tokenizer: Mapping[str, object] | None = None,
    name: str = "",
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes `path`: the weights (Hugging Face names) with matrices in `dtype`, a key of
    FILE_TYPES. Whole or not at all.

    Raises UsageError if the file is there and not `force`, StorageError, CheckpointError for a
    weight that is not finite in `dtype` or whose rows are not whole blocks of it."""
    kinds = {t: "F32" if len(tensors[t].shape) == 1 else dtype.upper() for t in tensors}
    sizes = {t: encoded_bytes(tensors[t], kind) for t, kind in kinds.items()}
    keys = _model_keys(config, generation, name, dtype) | dict(tokenizer or {})
    head = _header(keys, tensors, kinds, sizes)
    total, done = sum(map(_padded, sizes.values())), 0
    with appearing_file(path, force=force) as unfinished:
        check_space(path, len(head) + total)
        with unfinished.open("wb") as file:
            file.write(head)
            for key, tensor in tensors.items():
                for slab in encoded(tensor, kinds[key]):
                    file.write(slab.data)
                    done += len(slab)
                    if progress:
                        progress(done, total)
                file.write(bytes(_padded(sizes[key]) - sizes[key]))


def _model_keys(
    config: ModelConfig, generation: GenerationConfig, name: str, dtype: str
) -> dict[str, object]:
    keys: dict[str, object] = {
        "general.architecture": "qwen2",
        "general.type": "model",
        "general.file_type": FILE_TYPES[dtype],
        "general.quantization_version": 2,
        "qwen2.block_count": config.num_layers,
        "qwen2.context_length": config.max_position_embeddings,
        "qwen2.embedding_length": config.hidden_size,
        "qwen2.feed_forward_length": config.intermediate_size,
        "qwen2.attention.head_count": config.num_heads,
        "qwen2.attention.head_count_kv": config.num_kv_heads,
        "qwen2.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "qwen2.rope.freq_base": float(config.rope_theta),
    }
    if name:
        # A folder's name may hold bytes that are no text.
        keys["general.name"] = name.encode(errors="replace").decode()
    if config.head_dim * config.num_heads != config.hidden_size:
        for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
            keys[f"qwen2.{key}"] = config.head_dim
    return keys | _sampling_keys(generation)


def _sampling_keys(generation: GenerationConfig) -> dict[str, object]:
    """How the makers sample; a temperature of 0 is greedy."""
    if not generation.do_sample:
        values: dict[str, object] = {"temp": 0.0}
    else:
        values = {
            "temp": float(generation.temperature),
            "top_k": generation.top_k,
            "top_p": float(generation.top_p),
        }
    values["penalty_repeat"] = float(generation.repetition_penalty)
    return {f"general.sampling.{key}": value for key, value in values.items()}


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _header(
    keys: Mapping[str, object],
    tensors: Mapping[str, Source],
    kinds: Mapping[str, str],
    sizes: Mapping[str, int],
) -> bytes:
    """Everything before the weights, padded to their alignment."""
    parts = [b"GGUF", U32.pack(3), U64.pack(len(tensors)), U64.pack(len(keys))]
    for key, value in keys.items():
        parts += [_string(key), _value(value)]
    at = 0
    for name, tensor in tensors.items():
        dims = tensor.shape[::-1]
        parts += [_string(to_gguf(name)), U32.pack(len(dims)), *map(U64.pack, dims)]
        parts += [U32.pack(_GGML_TYPES[kinds[name]]), U64.pack(at)]
        at += _padded(sizes[name])
    head = b"".join(parts)
    return head + bytes(_padded(len(head)) - len(head))


def _string(text: str) -> bytes:
    raw = text.encode()
    return U64.pack(len(raw)) + raw


def _value(value: object) -> bytes:
    """A type and a value; an array's items have one type."""
    if isinstance(value, str | bool | int | float):
        return U32.pack(_type(value)) + _scalar(value)
    assert isinstance(value, Sequence), f"GGUF has no type for {type(value).__name__}"
    kind = _I32 if value and isinstance(value[0], int) else _STRING
    items = map(_string, value) if kind == _STRING else (struct.pack("<i", item) for item in value)
    return U32.pack(_ARRAY) + U32.pack(kind) + U64.pack(len(value)) + b"".join(items)


def _type(value: object) -> int:
    return next(kind for cls, kind in _TYPES if isinstance(value, cls))


_TYPES = ((str, _STRING), (bool, _BOOL), (int, _U32), (float, _F32))


def _scalar(value: str | bool | int | float) -> bytes:
    if isinstance(value, str):
        return _string(value)
    return struct.pack({_BOOL: "<?", _U32: "<I", _F32: "<f"}[_type(value)], value)
