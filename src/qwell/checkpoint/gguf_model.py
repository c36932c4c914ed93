"""A GGUF file, or all parts of a split one -> a Checkpoint.

Turns the `qwen2.*` keys into a ModelConfig and refuses by name what would change the numbers.
GGUF carries no generation_config.json, so the makers' sampling defaults are derived here from
the model's name and size by a small table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qwell.checkpoint.folder import check_range
from qwell.checkpoint.gguf import GgufFile, read_gguf
from qwell.checkpoint.mapped import quoted
from qwell.checkpoint.names import EMBEDDING, HEAD, checked, from_gguf, model_config
from qwell.checkpoint.tensor import Checkpoint, Tensor
from qwell.config import GenerationConfig, ModelConfig
from qwell.errors import CheckpointError, UnsupportedModelError

_TOKENS = "tokenizer.ggml.tokens"
_END_TOKENS = ("<|im_end|>", "<|endoftext|>")

_GREEDY = GenerationConfig(do_sample=False, temperature=1.0, top_p=1.0, top_k=0)
_SAMPLED = GenerationConfig(temperature=0.7, top_p=0.8, top_k=20)

_DEFAULTS: tuple[tuple[str, tuple[int, ...], GenerationConfig], ...] = (
    ("math", (), _GREEDY),
    ("coder", (5120,), replace(_SAMPLED, repetition_penalty=1.05)),
    ("coder", (), replace(_SAMPLED, repetition_penalty=1.1)),
    ("", (896, 1536), replace(_SAMPLED, repetition_penalty=1.1)),
    ("", (), replace(_SAMPLED, repetition_penalty=1.05)),
)
"""Instruct models: a word of the name, hidden sizes (14B and 32B; 0.5B and 1.5B; none = all), and
the values, those of hub's catalogue. The first row that fits holds. Source: generation_config.json
of Qwen/Qwen2.5-*-Instruct (0.5B, 1.5B, 7B and Coder-7B read; the others by report). Base models
decode greedily."""


def open_gguf(paths: Sequence[Path]) -> Checkpoint:
    """Opens one file (the first part of a split finds its siblings) or exactly the given parts.

    Both official small files hold output.weight beside token_embd.weight: it is the head, and
    tie_word_embeddings says whether it is absent."""
    parts = _parts(paths)
    first = parts[0]
    _check_architecture(first)
    found: dict[str, Tensor] = {}
    for part in parts:
        for name, tensor in part.tensors.items():
            hf = from_gguf(name)
            if hf in found:
                raise CheckpointError(
                    f"{part.path}: tensor {quoted(name)} is also in {found[hf].source}; "
                    "the parts do not belong together"
                )
            found[hf] = replace(tensor, name=hf)
    config = _config(first, found)
    return Checkpoint(
        files=tuple(part.path for part in parts),
        format="gguf",
        config=config,
        generation=_generation(first, config),
        tensors=checked(config, found, str(first.path)),
        metadata=first.metadata,
    )


# --- split files ----------------------------------------------------------------------------


def _parts(paths: Sequence[Path]) -> list[GgufFile]:
    """Every part, in order; their split.* keys agree with one another and with the tensors."""
    first = read_gguf(paths[0])
    count = first.metadata.scalar("split.count") if "split.count" in first.metadata else 1
    if type(count) is not int or not 1 <= count <= 1000:
        raise CheckpointError(f"{first.path}: split.count is {quoted(str(count))}, not 1 to 1000")
    if len(paths) == 1 and count > 1:
        paths = _siblings(paths[0], count)
    if len(paths) != count:
        raise CheckpointError(
            f"{first.path}: the model has {count} parts but {len(paths)} are given; give them all"
        )
    parts = [first, *(read_gguf(path) for path in paths[1:])]
    for number, part in enumerate(parts):
        stated = part.metadata.scalar("split.no"), part.metadata.scalar("split.count")
        if count > 1 and stated != (number, count):
            raise CheckpointError(
                f"{part.path}: is not part {number + 1} of {count} of this model; "
                "give the first part, and keep the parts of one model together"
            )
    total = sum(len(part.tensors) for part in parts)
    if count > 1 and first.metadata.scalar("split.tensors.count") != total:
        raise CheckpointError(
            f"{first.path}: split.tensors.count is not {total}, the tensors of all parts; "
            "the parts do not belong together"
        )
    return parts


def _siblings(path: Path, count: int) -> list[Path]:
    match = re.fullmatch(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf", path.name)
    if not match or int(match[3]) != count:
        raise CheckpointError(
            f"{path}: has {count} parts, so its name must end in -00001-of-{count:05}.gguf"
        )
    if int(match[2]) != 1:
        raise CheckpointError(f"{path}: is part {int(match[2])}; give the first part, -00001-of-")
    return [path.with_name(f"{match[1]}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]


# --- the architecture -----------------------------------------------------------------------

_KEYS = {
    "intermediate_size": "feed_forward_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}


def _config(file: GgufFile, found: Mapping[str, Tensor]) -> ModelConfig:
    metadata, path = file.metadata, file.path
    raw: dict[str, object] = {"model_type": "qwen2", "tie_word_embeddings": HEAD not in found}
    for name, key in _KEYS.items():
        value = metadata.scalar(f"qwen2.{key}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CheckpointError(f"{path}: the key qwen2.{key} is missing or not a number")
        raw[name] = _shortest(value) if isinstance(value, float) else value
    if EMBEDDING not in found:
        raise CheckpointError(f"{path}: tensor token_embd.weight is missing; fetch the file again")
    raw["vocab_size"] = found[EMBEDDING].shape[0]
    if "qwen2.attention.key_length" in metadata:
        raw["head_dim"] = metadata.scalar("qwen2.attention.key_length")
    config = model_config(raw, path)
    _refuse_variants(file, config)
    return config


def _shortest(value: float) -> float:
    """A float32 of the file as the number that was meant: 1e-06, not 9.999999974752427e-07.
    In float32 they are the same; so the config equals the one of config.json."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def _check_architecture(file: GgufFile) -> None:
    name = file.metadata.scalar("general.architecture")
    if name is None:
        raise CheckpointError(f"{file.path}: general.architecture is missing; fetch the file again")
    if name != "qwen2":
        raise UnsupportedModelError(
            f"{file.path}: the architecture is {quoted(str(name))}; qwell runs 'qwen2' models"
        )


def _refuse_variants(file: GgufFile, config: ModelConfig) -> None:
    """What would run but give wrong answers if it were ignored."""
    metadata = file.metadata
    allowed: dict[str, tuple[object, ...]] = {
        "attention.value_length": (config.head_dim,),
        "attention.sliding_window": (0,),
        "attention.causal": (True,),
        "rope.dimension_count": (config.head_dim,),
        "rope.scale_linear": (1.0,),
        "rope.scaling.factor": (0.0, 1.0),
    }
    unscaled = metadata.scalar("qwen2.rope.scaling.type") == "none"
    for key in metadata:
        name = key.removeprefix("qwen2.")
        scaling = name.startswith("rope.scaling.")
        if name == key or (scaling and unscaled) or not (scaling or name in allowed):
            continue
        value = metadata.scalar(key)
        if value not in allowed.get(name, ()):
            raise UnsupportedModelError(
                f"{file.path}: {key} = {quoted(str(value))} is not supported yet; "
                "use a file made without it"
            )
    if metadata.length(_TOKENS) > config.vocab_size:
        raise CheckpointError(
            f"{file.path}: {_TOKENS} has {metadata.length(_TOKENS):,} tokens for "
            f"{config.vocab_size:,} rows of token_embd.weight; convert the model again"
        )


# --- sampling defaults ----------------------------------------------------------------------


def _generation(file: GgufFile, config: ModelConfig) -> GenerationConfig:
    metadata = file.metadata
    keys = ("general.name", "general.basename", "general.finetune")
    name = " ".join(str(metadata.scalar(key)) for key in keys).lower()
    ends = [metadata.index(_TOKENS, text) for text in _END_TOKENS]
    eos = _eos(file, config.vocab_size)
    instruct = "instruct" in name or (eos is not None and eos == ends[0])
    ids = [eos]
    if instruct or "tokenizer.chat_template" in metadata:
        ids += ends
    values = _stated(file) or (_defaults(name, config.hidden_size) if instruct else _GREEDY)
    known = tuple(dict.fromkeys(i for i in ids if i is not None))
    return replace(values, eos_token_ids=known or values.eos_token_ids)


def _stated(file: GgufFile) -> GenerationConfig | None:
    """The file's own general.sampling.* keys, if it has them; a temperature of 0 is greedy."""
    found: dict[str, float] = {}
    for name, key in _SAMPLING.items():
        value = file.metadata.scalar(f"general.sampling.{key}")
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise CheckpointError(f"{file.path}: general.sampling.{key} is not a number")
        if value is not None:
            found[name] = _shortest(value) if isinstance(value, float) else value
    if "temperature" not in found:
        return None
    sampled = found["temperature"] > 0
    own = GenerationConfig.from_dict(found | {"do_sample": sampled})
    check_range(own, file.path)
    return own if sampled else replace(own, temperature=1.0, top_p=1.0, top_k=0)


_SAMPLING = {
    "temperature": "temp",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "penalty_repeat",
}


def _eos(file: GgufFile, vocab_size: int) -> int | None:
    value = file.metadata.scalar("tokenizer.ggml.eos_token_id")
    if "tokenizer.ggml.eos_token_id" not in file.metadata:
        return None
    if type(value) is not int or not 0 <= value < vocab_size:
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.eos_token_id is {quoted(str(value))}, not an id below "
            f"{vocab_size:,}; convert the model again"
        )
    return value


def _defaults(name: str, hidden_size: int) -> GenerationConfig:
    return next(
        values
        for word, sizes, values in _DEFAULTS
        if word in name and (not sizes or hidden_size in sizes)
    )
