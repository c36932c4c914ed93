"""A low-rank adapter in PEFT's layout: adapter_config.json and adapter_model.safetensors.

A linear y = W x (+ b) of the model becomes y + scale * B (A x), with A [r, in] and B [out, r]
(LoRA, arXiv:2106.09685); scale is alpha / r, or alpha / sqrt(r) (rsLoRA, arXiv:2312.03732). Whole
embeddings beside it are taken where it is merged. What would compute something else (DoRA, biases,
other modules) is refused by name, and so is every key this page does not know.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from qwell.checkpoint.blocks import Bytes, Floats
from qwell.checkpoint.folder import PICKLES, refuse_pickle
from qwell.checkpoint.mapped import map_file, quoted, read_object
from qwell.checkpoint.names import EMBEDDING, HEAD, expected
from qwell.checkpoint.safetensors import read_safetensors
from qwell.checkpoint.tensor import Tensor, check_finite
from qwell.config import ModelConfig
from qwell.errors import CheckpointError, NotFoundError, UnsupportedModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_RANK = 4096
WHOLE = {"embed_tokens": EMBEDDING, "lm_head": HEAD}
"""What PEFT's modules_to_save may name, and the tensor it is."""
_PREFIX = "base_model.model."

_INERT = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "parent_library"),
    *("peft_version", "revision", "runtime_config", "task_type"),
    *("corda_config", "eva_config", "exclude_modules", "layers_pattern", "loftq_config"),
    *("lora_dropout", "megatron_core", "qalora_group_size"),
}
"""Keys that say how it was trained or whose it is, and change nothing that is computed."""
_READ = {
    *("alpha_pattern", "bias", "init_lora_weights", "layers_to_transform", "lora_alpha"),
    *("peft_type", "r", "rank_pattern", "target_modules", "use_rslora"),
}
_INITS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Starts that leave the model's own weights as they were; PiSSA, OLoRA, LoftQ and CorDA do not."""


@dataclass(frozen=True, eq=False)
class Folded:
    """B with the scale in it: [out, r] float32."""

    tensor: Tensor
    scale: float

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> str:
        return "F32"

    @property
    def data(self) -> Bytes:
        return self.float32().reshape(-1).view(np.uint8)

    def float32(self, start: int = 0, stop: int | None = None) -> Floats:
        return self.tensor.float32(start, stop) * np.float32(self.scale)


@dataclass(frozen=True, eq=False)
class Lora:
    """What one linear gets: y + b (a x)."""

    a: Tensor
    """[r, in]"""
    b: Folded
    """[out, r], scaled"""


@dataclass(frozen=True, eq=False)
class Adapter:
    """An opened, checked adapter of a model."""

    folder: Path
    loras: Mapping[str, Lora]
    """By the linear, as in model.layers.0.self_attn.q_proj; in the order of the model."""
    whole: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, what takes the place of the model's embedding and head."""

    @cached_property
    def id(self) -> str:
        """Names its content: a hash of both files."""
        digest = hashlib.sha256()
        for name in (CONFIG, WEIGHTS):
            digest.update(map_file(self.folder / name).data)
        return digest.hexdigest()[:16]

    @property
    def nbytes(self) -> int:
        return sum(len(lora.a.data) + len(lora.b.tensor.data) for lora in self.loras.values())


def open_adapter(folder: Path, config: ModelConfig, *, to_merge: bool = False) -> Adapter:
    """Opens the adapter in `folder` for a model of this config. Whole embeddings are taken only
    `to_merge`.

    Raises NotFoundError, CheckpointError (damaged, or of another model), UnsupportedModelError
    for what qwell does not compute."""
    path = folder / CONFIG
    if not path.is_file():
        inside = folder / "adapter"  # of a run of training
        what = str(inside) if (inside / CONFIG).is_file() else "the folder of a PEFT adapter"
        raise NotFoundError(f"{folder}: there is no {CONFIG}; give {what}")
    if not (folder / WEIGHTS).is_file():
        for pickle in (child for child in folder.iterdir() if child.name.endswith(PICKLES)):
            refuse_pickle(pickle)
        raise NotFoundError(f"{folder}: there is no {WEIGHTS}; give the folder of a PEFT adapter")
    rules = _Rules(read_object(path), path, to_merge=to_merge)
    found = read_safetensors(folder / WEIGHTS)
    whole = {name: _whole(found, name, config) for name in rules.whole}
    if config.tie_word_embeddings and whole:
        _check_tied(whole, folder / WEIGHTS)
    shapes = {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in expected(config)
        if name.startswith("model.layers.") and len(shape) == 2
    }
    return Adapter(folder, _loras(found, rules, shapes), whole)


def _whole(found: dict[str, Tensor], name: str, config: ModelConfig) -> Tensor:
    """Takes a whole matrix [vocab_size, hidden_size] out of `found`."""
    shape = config.vocab_size, config.hidden_size
    return _checked(found.pop(_PREFIX + name, None), _PREFIX + name, shape)


def _check_tied(whole: Mapping[str, Tensor], path: Path) -> None:
    """One matrix under two names must be learnt as one."""
    matrices = [tensor.data for tensor in whole.values()]
    if len(matrices) < 2 or not np.array_equal(matrices[0], matrices[1]):
        raise UnsupportedModelError(
            f"{path}: the model ties its embedding and head, the adapter has another matrix for "
            "each; merge it with PEFT and give the merged model"
        )


def _loras(
    found: dict[str, Tensor], rules: _Rules, shapes: Mapping[str, tuple[int, int]]
) -> dict[str, Lora]:
    _check_names(found, shapes)
    loras = {}
    for module, (out, width) in shapes.items():
        if f"{_PREFIX}{module}.lora_A.weight" not in found:
            rules.check_absent(module)
            continue
        rank = rules.rank(module)
        a = _factor(found, module, "lora_A", (rank, width))
        b = _factor(found, module, "lora_B", (out, rank))
        loras[module] = Lora(a, Folded(b, rules.scale(module)))
    if not loras:
        raise CheckpointError(f"{rules.path}: the adapter changes no matrix of this model")
    return loras


def _check_names(found: Mapping[str, Tensor], shapes: Mapping[str, object]) -> None:
    """Every tensor is the A or B of a linear the model has."""
    for name, tensor in found.items():
        match = re.fullmatch(rf"{re.escape(_PREFIX)}(.+)\.lora_[AB]\.weight", name)
        if match and match[1] in shapes:
            continue
        known = ".lora_" not in name or "embed" in name or "lm_head" in name or "magnitude" in name
        if known:
            raise UnsupportedModelError(
                f"{tensor.source}: tensor {quoted(name)} is not supported; qwell runs adapters of "
                "the linear layers q, k, v, o, gate, up and down"
            )
        raise CheckpointError(
            f"{tensor.source}: tensor {quoted(name)} fits no matrix of this model with "
            f"{len(shapes) // 7} layers; the adapter is of another model"
        )


def _factor(found: Mapping[str, Tensor], module: str, which: str, shape: tuple[int, int]) -> Tensor:
    name = f"{_PREFIX}{module}.{which}.weight"
    return _checked(found.get(name), name, shape)


def _checked(tensor: Tensor | None, name: str, shape: tuple[int, int]) -> Tensor:
    if tensor is None:
        raise CheckpointError(f"tensor {name} is missing; the adapter is cut, fetch it again")
    if tensor.shape != shape:
        raise CheckpointError(
            f"{tensor.source}: tensor {name} has shape {tensor.shape}, its rank and this model ask "
            f"for {shape}; the adapter is of another model"
        )
    check_finite(tensor)
    return replace(tensor, name=name.removeprefix(_PREFIX))


class _Rules:
    """adapter_config.json: rank and scale of each linear."""

    def __init__(self, raw: Mapping[str, Any], path: Path, *, to_merge: bool) -> None:
        self.raw, self.path = raw, path
        self.whole = self._whole() if to_merge else ()
        self._refuse_foreign(to_merge)
        self.patterns = {key: self._patterns(key) for key in ("rank_pattern", "alpha_pattern")}
        self._number("r", raw.get("r"))
        self._number("lora_alpha", raw.get("lora_alpha"))

    def rank(self, module: str) -> int:
        rank = self._of("rank_pattern", "r", module)
        if rank != int(rank) or not 1 <= rank <= MAX_RANK:
            raise CheckpointError(f"{self.path}: the rank {rank} is not 1 to {MAX_RANK}")
        return int(rank)

    def scale(self, module: str) -> float:
        rank, alpha = self.rank(module), self._of("alpha_pattern", "lora_alpha", module)
        return alpha / (sqrt(rank) if self.raw.get("use_rslora") else rank)

    def check_absent(self, module: str) -> None:
        """Raises CheckpointError if the config says that the linear has an adapter."""
        targets, layers = self.raw.get("target_modules"), self.raw.get("layers_to_transform")
        layers = [layers] if isinstance(layers, int) else layers
        if layers is not None and not isinstance(layers, list):
            raise CheckpointError(f"{self.path}: layers_to_transform is no list of layers")
        if layers is not None and int(module.split(".")[2]) not in layers:
            return
        if self.raw.get("exclude_modules") is not None or not isinstance(targets, list):
            return
        if any(_fits(str(target), module) for target in targets):
            raise CheckpointError(
                f"{self.path}: target_modules names {module}, but the weights hold no adapter "
                "of it: it is incomplete, or of another model"
            )

    def _of(self, patterns: str, key: str, module: str) -> float:
        found = (v for name, v in self.patterns[patterns].items() if _fits(name, module))
        return next(found, float(self.raw[key]))

    def _patterns(self, key: str) -> dict[str, float]:
        """PEFT reads these names as regular expressions; they are plain names in all it writes."""
        raw = self.raw.get(key) or {}
        if not isinstance(raw, dict):
            raise CheckpointError(f"{self.path}: {key} is not an object")
        for name in raw:
            if not re.fullmatch(r"\^?[\w.]{1,200}", name):
                raise UnsupportedModelError(
                    f"{self.path}: {key} has the pattern {quoted(name)}; qwell reads plain names"
                )
        return {name: self._number(key, value) for name, value in raw.items()}

    def _number(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise CheckpointError(
                f"{self.path}: {key} is {quoted(str(value))}, not a number above 0"
            )
        return float(value)

    def _whole(self) -> tuple[str, ...]:
        """Names of the tensors that the adapter replaces."""
        modules = self.raw.get("modules_to_save") or []
        if not isinstance(modules, list) or not set(map(str, modules)) <= WHOLE.keys():
            raise UnsupportedModelError(
                f"{self.path}: modules_to_save = {quoted(str(modules))} is not supported; qwell "
                f"merges {' and '.join(WHOLE)}"
            )
        return tuple(name for module, name in WHOLE.items() if module in modules)

    def _refuse_foreign(self, to_merge: bool) -> None:
        raw = self.raw
        if raw.get("peft_type") != "LORA":
            kind = quoted(str(raw.get("peft_type")))
            raise UnsupportedModelError(f"{self.path}: peft_type is {kind}; qwell runs LORA")
        wrong = {key: value for key, value in raw.items() if value and key not in _INERT | _READ}
        if wrong.pop("modules_to_save", None) and not to_merge:
            raise UnsupportedModelError(
                f"{self.path}: the adapter has whole modules beside it (modules_to_save): write "
                "the merged model with `qwell merge`, and give that"
            )
        if raw.get("bias", "none") != "none":
            wrong["bias"] = raw["bias"]
        if raw.get("init_lora_weights") not in _INITS:
            wrong["init_lora_weights"] = raw["init_lora_weights"]
        for key, value in wrong.items():
            raise UnsupportedModelError(
                f"{self.path}: {key} = {quoted(str(value))} is not supported; merge the adapter "
                "with PEFT and give the merged model"
            )


def _fits(pattern: str, module: str) -> bool:
    """PEFT's rule: the name as a whole, or its end after a dot."""
    if pattern.startswith("^"):
        return module == pattern[1:]
    return module == pattern or module.endswith(f".{pattern}")
