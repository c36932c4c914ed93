"""Random adapters in PEFT's layout, written by the `safetensors` package and json, not by us."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.checkpoint.make import Floats, shapes

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def factors(
    config: Mapping[str, Any],
    rank: int | Mapping[str, int],
    targets: Sequence[str] = ALL,
    seed: int = 0,
    scale: float = 0.3,
) -> dict[str, Floats]:
    """A and B of every target by PEFT's names; B A changes a row by about `scale`."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes(config).items():
        module = name.removesuffix(".weight")
        target = module.split(".")[-1]
        if target not in targets or name.endswith("bias"):
            continue
        r = rank if isinstance(rank, int) else rank[target]
        for which, size, spread in (
            ("lora_A", (r, shape[1]), shape[1] ** -0.5),
            ("lora_B", (shape[0], r), scale * r**-0.5),
        ):
            values = rng.standard_normal(size, np.float32) * np.float32(spread)
            found[f"base_model.model.{module}.{which}.weight"] = values
    return found


def adapter_config(rank: int, targets: Sequence[str] = ALL, **over: Any) -> dict[str, Any]:
    facts = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(targets),
        "bias": "none",
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }
    return facts | over


def write_peft(
    folder: Path,
    config: Mapping[str, Any],
    rank: int = 4,
    targets: Sequence[str] = ALL,
    *,
    seed: int = 0,
    tensors: Mapping[str, Floats] | None = None,
    **over: Any,
) -> Path:
    """The folder of an adapter for a model of `config`; `over` changes adapter_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = adapter_config(rank, targets, **over)
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    weights = factors(config, rank, targets, seed) if tensors is None else dict(tensors)
    save_file(weights, folder / "adapter_model.safetensors")
    return folder
