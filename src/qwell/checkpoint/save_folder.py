"""A model -> a Hugging Face folder that transformers, vLLM and qwell open.

Takes the parts (config, weights, tokenizer files as bytes), knows no tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qwell.checkpoint.appear import appearing_folder, check_space
from qwell.checkpoint.encode import Source, encoded_bytes
from qwell.checkpoint.save_safetensors import SHARD_BYTES, write_shards
from qwell.config import GenerationConfig, ModelConfig

TORCH_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def write_hf(
    folder: Path,
    config: ModelConfig,
    generation: GenerationConfig,
    tensors: Mapping[str, Source],
    *,
    dtype: str = "bf16",
    files: Mapping[str, bytes] | None = None,
    shard_bytes: int = SHARD_BYTES,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes `folder`: config.json, generation_config.json, the weights (Hugging Face names) in
    `dtype`, a key of TORCH_DTYPES, and `files` as they are. Whole or not at all.

    Raises UsageError if something is there (see appearing_folder), StorageError, CheckpointError
    for a weight that is not finite in `dtype`."""
    kind, extra = dtype.upper(), dict(files or {})
    total = sum(encoded_bytes(tensor, kind) for tensor in tensors.values())
    with appearing_folder(folder, force=force, mark="config.json") as unfinished:
        check_space(folder, total + sum(map(len, extra.values())))
        for name, data in extra.items():
            (unfinished / name).write_bytes(data)
        write_json(unfinished / "config.json", hf_config(config, generation, dtype))
        write_json(unfinished / "generation_config.json", hf_generation(generation))
        counted = _Counter(total, progress)
        write_shards(unfinished, tensors, kind, shard_bytes=shard_bytes, progress=counted)


class _Counter:
    """Bytes of one slab -> (done, total)."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self, written: int) -> None:
        self.done += written
        if self.progress:
            self.progress(self.done, self.total)


def hf_config(config: ModelConfig, generation: GenerationConfig, dtype: str) -> dict[str, Any]:
    """config.json, readable by transformers 4 and 5: the older key names and the newer ones."""
    eos = generation.eos_token_ids
    values = {
        "architectures": ["Qwen2ForCausalLM"],
        **config.to_dict(),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_sliding_window": False,
        "use_cache": True,
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos),
        "torch_dtype": TORCH_DTYPES[dtype],
    }
    if config.head_dim * config.num_heads == config.hidden_size:
        del values["head_dim"]
    return values


def hf_generation(generation: GenerationConfig) -> dict[str, Any]:
    """generation_config.json. Values that only sampling reads are left out of a greedy one, or
    transformers warns of them."""
    eos = generation.eos_token_ids
    values: dict[str, Any] = {
        "do_sample": generation.do_sample,
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos),
        "repetition_penalty": generation.repetition_penalty,
    }
    if generation.do_sample:
        values |= {name: getattr(generation, name) for name in ("temperature", "top_k", "top_p")}
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON file of a model folder."""
    path.write_text(json.dumps(dict(values), indent=2) + "\n", encoding="utf-8")
