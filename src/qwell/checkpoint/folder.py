"""A Hugging Face folder (config.json and safetensors) -> a Checkpoint.

Reads one file or the shards its index names; checks that every tensor is in the shard the index
says. Never opens a pickle and never runs code from the folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from qwell.checkpoint.mapped import quoted, read_object
from qwell.checkpoint.names import checked, model_config
from qwell.checkpoint.safetensors import read_safetensors
from qwell.checkpoint.tensor import Checkpoint, Tensor
from qwell.config import GenerationConfig, ModelConfig
from qwell.errors import CheckpointError, NotFoundError, UnsupportedModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def open_folder(folder: Path) -> Checkpoint:
    """Opens the folder. A tied model that also stores lm_head.weight (a copy of the embedding)
    runs on the embedding: the copy is left out, as in transformers."""
    index = _index(folder)
    config_path, generation_path = folder / "config.json", folder / "generation_config.json"
    if not config_path.is_file():
        raise NotFoundError(f"{folder}: there is no config.json; give a complete model folder")
    raw = read_object(config_path)
    config = _config(raw, config_path)
    has_defaults = generation_path.is_file()
    defaults = read_object(generation_path) if has_defaults else {}
    weights = sorted(set(index.values())) if index else [SINGLE]
    found = _sharded(folder, weights, index) if index else read_safetensors(folder / SINGLE)
    others = [INDEX] * bool(index) + ["config.json"] + ["generation_config.json"] * has_defaults
    return Checkpoint(
        files=tuple(folder / name for name in (*weights, *others)),
        format="safetensors",
        config=config,
        generation=_generation(raw, defaults, generation_path if has_defaults else config_path),
        tensors=checked(config, found, str(folder)),
        folder=folder,
    )


def refuse_pickle(path: Path) -> NoReturn:
    """Raises UnsupportedModelError: a pickle can run any code when it is read."""
    raise UnsupportedModelError(
        f"{path}: is a pickle, which can run code when it is read; qwell never opens one, "
        "use the safetensors or GGUF version of the model"
    )


def _index(folder: Path) -> dict[str, str] | None:
    """tensor -> shard, or None if one file holds all: `model.safetensors` wins over an index, as
    in transformers. Shards are plain file names: an index cannot point out of its folder."""
    if (folder / SINGLE).is_file():
        return None
    where = folder / INDEX
    if not where.is_file():
        _refuse_weights(folder)
    weights = read_object(where).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{where}: there is no weight_map; fetch the file again")
    for tensor, shard in weights.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w.-]{1,200}\.safetensors", shard):
            raise CheckpointError(
                f"{where}: tensor {quoted(tensor)} is in {quoted(str(shard))}, "
                "which is not the name of a safetensors file; fetch the index again"
            )
    return weights


def _refuse_weights(folder: Path) -> NoReturn:
    """There are no safetensors: says what there is instead, and what to do."""
    for name in sorted(path.name for path in folder.iterdir()):
        if name.endswith(".gguf"):
            raise NotFoundError(f"{folder}: holds {quoted(name)}; give the .gguf file itself")
        if name.endswith(PICKLES):
            refuse_pickle(folder / name)
    raise NotFoundError(f"{folder}: there is no {SINGLE} and no {INDEX}; give a model folder")


def _sharded(folder: Path, shards: list[str], index: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of all shards; each is in the shard the index names, and nowhere else."""
    found: dict[str, Tensor] = {}
    for shard in shards:
        path = folder / shard
        if not path.is_file():
            raise CheckpointError(f"{path}: this shard is missing; fetch it")
        for name, tensor in read_safetensors(path).items():
            if index.get(name) != shard:
                raise CheckpointError(
                    f"{path}: tensor {quoted(name)} is here, but {INDEX} says "
                    f"{quoted(str(index.get(name)))}; the files do not belong together"
                )
            found[name] = tensor
    for name, shard in index.items():
        if name not in found:
            raise CheckpointError(
                f"{folder / shard}: tensor {quoted(name)} is missing; "
                f"{INDEX} says it is here, fetch both again"
            )
    return found


def _config(raw: Mapping[str, Any], where: Path) -> ModelConfig:
    kinds = raw.get("architectures") or ["Qwen2ForCausalLM"]
    if kinds != ["Qwen2ForCausalLM"] and raw.get("model_type") == "qwen2":
        raise UnsupportedModelError(
            f"{where}: architectures is {quoted(str(kinds))}; qwell runs Qwen2ForCausalLM"
        )
    return model_config(raw, where)


def _generation(
    config: Mapping[str, Any], defaults: Mapping[str, Any], where: Path
) -> GenerationConfig:
    """generation_config.json, with the end ids of both files; without the file, greedy."""
    ids = dict.fromkeys(
        _end_ids(defaults, where) + _end_ids(config, where.with_name("config.json"))
    )
    present = {
        key: value for key, value in defaults.items() if value is not None and key != "eos_token_id"
    }
    try:
        generation = GenerationConfig.from_dict(present)
    except (OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: a key has the wrong type ({error})") from error
    check_range(generation, where)
    return replace(generation, eos_token_ids=tuple(ids) or generation.eos_token_ids)


def _end_ids(raw: Mapping[str, Any], where: Path) -> list[int]:
    """eos_token_id as a list: absent, one id or several."""
    value = raw.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(i) is int and 0 <= i < 2**31 for i in ids):
        raise CheckpointError(
            f"{where}: eos_token_id is {quoted(str(value))}, not a token id or a list of them; "
            "fetch the file again"
        )
    return ids


def check_range(generation: GenerationConfig, where: Path) -> None:
    """Raises CheckpointError for sampling values that no sampler can take."""
    sound = {
        "temperature": 0 <= generation.temperature < 100,
        "top_p": 0 < generation.top_p <= 1,
        "top_k": 0 <= generation.top_k < 2**31,
        "repetition_penalty": 0 < generation.repetition_penalty < 100,
    }
    for key, fine in sound.items():
        if not fine or not isfinite(getattr(generation, key)):
            value = quoted(str(getattr(generation, key)))
            raise CheckpointError(f"{where}: {key} is {value}, out of range; fetch the file again")
