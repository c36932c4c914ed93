"""A trained adapter -> a folder in PEFT's layout, which PEFT and `open_adapter` read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qwell.checkpoint.adapter import CONFIG, WEIGHTS
from qwell.checkpoint.appear import appearing_folder, check_space
from qwell.checkpoint.blocks import Floats
from qwell.checkpoint.encode import Source, encoded_bytes
from qwell.checkpoint.save_folder import write_json
from qwell.checkpoint.save_safetensors import write_safetensors


@dataclass(frozen=True, eq=False)
class _Renamed:
    name: str
    source: Source

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> str:
        return self.source.dtype

    def float32(self, start: int = 0, stop: int | None = None) -> Floats:
        return self.source.float32(start, stop)


def write_adapter(
    folder: Path,
    loras: Mapping[str, tuple[Source, Source]],
    *,
    rank: int,
    alpha: float,
    rslora: bool = False,
    base_model: str = "",
    dtype: str = "f32",
    force: bool = False,
) -> None:
    """Writes A [r, in] and B [out, r] of every linear (model.layers.0.self_attn.q_proj ...).

    dtype: f32, f16 or bf16. Raises what appearing_folder raises, CheckpointError for a weight that
    is not finite."""
    weights = [
        _Renamed(f"base_model.model.{module}.{which}.weight", source)
        for module, pair in loras.items()
        for which, source in zip(("lora_A", "lora_B"), pair, strict=True)
    ]
    with appearing_folder(folder, force=force, mark=CONFIG) as unfinished:
        check_space(folder, sum(encoded_bytes(w, dtype.upper()) for w in weights))
        write_safetensors(unfinished / WEIGHTS, weights, dtype.upper())
        write_json(unfinished / CONFIG, _config(loras, rank, alpha, rslora, base_model))


def _config(
    loras: Mapping[str, object], rank: int, alpha: float, rslora: bool, base_model: str
) -> dict[str, object]:
    layers = sorted({int(module.split(".")[2]) for module in loras})
    targets = sorted({module.split(".")[-1] for module in loras})
    is_regular = len(loras) == len(layers) * len(targets)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "use_rslora": rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "layers_to_transform": layers if is_regular else None,
        "target_modules": targets if is_regular else list(loras),
    }
