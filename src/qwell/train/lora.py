"""Low-rank adapters over frozen matrices (arXiv:2106.09685), in PEFT's layout on disk.

    y = x W^T + bias + (alpha / rank) (x A^T) B^T        A [rank, in], B [out, rank]

The base may be held as packed integers (`packed.py`): then it is QLoRA (arXiv:2305.14314). Base
weights get no gradient, so their products are not computed and their inputs not kept for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qwell.checkpoint.adapter import CONFIG, WEIGHTS
from qwell.checkpoint.appear import appearing_folder
from qwell.checkpoint.save_folder import write_json
from qwell.checkpoint.save_safetensors import write_safetensors
from qwell.errors import UsageError
from qwell.train import functions
from qwell.train.config import TARGETS
from qwell.train.modules import Block, Decoder, Linear
from qwell.train.packed import PackedLinear
from qwell.train.weights import as_stored, refuse_existing

WHOLE = ("embed_tokens", "lm_head")
_STEM = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which matrices get an adapter, and how large."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS
    train_embeddings: bool = False
    """Also trains the embedding and the head whole (PEFT's modules_to_save)."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise UsageError(f"LoRA rank {self.rank} and alpha {self.alpha:g} must be positive")
        unknown = sorted(set(self.targets) - set(TARGETS))
        if unknown or not self.targets:
            raise UsageError(
                f"LoRA target {unknown[0]!r} is unknown; targets are {', '.join(TARGETS)}"
                if unknown
                else f"LoRA needs at least one target of {', '.join(TARGETS)}"
            )


class Matrix(nn.Module):
    """One factor of an adapter; the name PEFT gives its weight is this module's."""

    def __init__(self, rows: int, columns: int, **where: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, columns, **where))


class LoraLinear(nn.Module):
    """A frozen linear layer and its adapter. The layer below keeps the checkpoint's parameter
    names: `weight` and `bias` are this module's own. `base` is the packed matrix of QLoRA."""

    def __init__(self, below: Linear | PackedLinear, config: LoraConfig) -> None:
        super().__init__()
        self.in_features, self.out_features = below.in_features, below.out_features
        self.scale = config.alpha / config.rank
        self.bias = below.bias
        self.weight = below.weight if isinstance(below, Linear) else None
        self.base = below.base if isinstance(below, PackedLinear) else None
        if isinstance(below, PackedLinear):
            where: dict[str, Any] = {"dtype": below.dtype, "device": below.base.codes.device}
        else:
            where = {"dtype": below.weight.dtype, "device": below.weight.device}
        self.lora_A = Matrix(config.rank, below.in_features, **where)
        self.lora_B = Matrix(below.out_features, config.rank, **where)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functions.LoraLinear.apply(
            x, self._below(), self.bias, self.lora_A.weight, self.lora_B.weight, self.scale
        )
        return y

    def _below(self) -> functions.Base:
        if self.base is not None:
            return self.base
        assert self.weight is not None
        return self.weight

    @torch.no_grad()
    def merged(self) -> Linear:
        """A plain linear layer with the adapter added to the weight, rounded once."""
        plain = Linear(self.in_features, self.out_features, bias=False, device="meta")
        wide = functions.opened(self._below(), torch.empty(0, dtype=torch.float32)).float()
        wide += self.scale * (self.lora_B.weight.float() @ self.lora_A.weight.float())
        plain.weight = nn.Parameter(wide.to(self.lora_A.weight.dtype))
        plain.register_parameter("bias", self.bias)
        return plain


def add_lora(decoder: Decoder, config: LoraConfig, *, seed: int = 0) -> None:
    """Freezes the decoder and puts an adapter on every target. A from PEFT's uniform
    (Kaiming, a = sqrt(5)), B zero: the model starts as it was."""
    decoder.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parent, name, base in _linears(decoder, config.targets, Linear, PackedLinear):
        adapted = LoraLinear(base, config)
        bound = 1 / math.sqrt(base.in_features)
        with torch.no_grad():
            fresh = torch.empty(config.rank, base.in_features)
            adapted.lora_A.weight.copy_(fresh.uniform_(-bound, bound, generator=generator))
        setattr(parent, name, adapted)
    if config.train_embeddings:
        decoder.model.embed_tokens.requires_grad_(True)
        decoder.lm_head.requires_grad_(True)


def merge_lora(decoder: Decoder) -> None:
    """Adds every adapter to its weight: the decoder becomes a plain one that can be saved, packed
    matrices without an adapter included."""
    for parent, name, child in list(_linears(decoder, TARGETS, LoraLinear, PackedLinear)):
        setattr(parent, name, child.merged())
    decoder.requires_grad_(True)


def _linears(
    decoder: Decoder, targets: tuple[str, ...], *kinds: type[nn.Module]
) -> Iterator[tuple[nn.Module, str, Any]]:
    for layer in decoder.model.layers:
        assert isinstance(layer, Block)
        for parent in (layer.self_attn, layer.mlp):
            for name, child in list(parent.named_children()):
                if name in targets and isinstance(child, kinds):
                    yield parent, name, child


# --- PEFT's layout, written; `checkpoint/adapter.py` reads it ---------------------------------


def adapter_state(decoder: Decoder) -> dict[str, Tensor]:
    """PEFT's names and the weights of everything that learns. A trained tied embedding is stored
    under both of its names, as PEFT holds two copies."""
    found = {_STEM + name: p.detach() for name, p in decoder.named_parameters() if p.requires_grad}
    embedding, head = (f"{_STEM}{name}.weight" for name in ("model.embed_tokens", "lm_head"))
    if embedding in found and head not in found:
        found[head] = found[embedding].clone()
    return found


def save_adapter(folder: Path, decoder: Decoder, config: LoraConfig, *, base: str) -> None:
    """Writes a new `folder` PEFT opens: adapter_config.json and adapter_model.safetensors.

    base: what the adapter belongs on (a name or a path). Raises UsageError if the folder exists,
    StorageError if it cannot be written, CheckpointError for a weight that is not finite."""
    refuse_existing(folder)
    weights = [as_stored(name, tensor) for name, tensor in adapter_state(decoder).items()]
    with appearing_folder(folder, force=False, mark=CONFIG) as part:
        write_json(part / CONFIG, peft_config(config, base))
        write_safetensors(part / WEIGHTS, weights, weights[0].dtype)


def peft_config(config: LoraConfig, base: str) -> dict[str, Any]:
    """adapter_config.json."""
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": list(WHOLE) if config.train_embeddings else None,
        "peft_type": "LORA",
        "r": config.rank,
        "target_modules": sorted(config.targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
