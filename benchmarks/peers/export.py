"""A checkpoint as qwell reads it -> a Hugging Face folder in bf16, for peers that take no GGUF.

    python benchmarks/peers/export.py MODEL FOLDER

The weights are those of the file, dequantised, so every peer computes the same model. Knows
nothing of the peers; a tokenizer is not written, since they are fed ids.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwell.checkpoint import Checkpoint, Tensor, open_checkpoint
from qwell.hub.resolve import resolve


def bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Finite float32 of any shape -> the bits of the nearest bf16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def header(tensors: dict[str, Tensor]) -> bytes:
    """The head of a safetensors file: length, then names, shapes and places, padded to 8."""
    entries: dict[str, object] = {}
    at = 0
    for name, tensor in tensors.items():
        size = 2 * int(np.prod(tensor.shape))
        entries[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_folder(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes config.json and model.safetensors into `folder`, which is made."""
    folder.mkdir(parents=True)
    config = checkpoint.config.to_dict() | {
        "architectures": ["Qwen2ForCausalLM"],
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "use_sliding_window": False,
        "eos_token_id": list(checkpoint.generation.eos_token_ids),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tensors = dict(checkpoint.tensors)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header(tensors))
        for tensor in tensors.values():
            file.write(bf16(tensor.float32()).tobytes())


if __name__ == "__main__":
    write_folder(open_checkpoint(resolve(sys.argv[1]).paths), Path(sys.argv[2]))
