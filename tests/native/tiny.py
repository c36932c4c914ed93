"""Tiny packed models for the native tests: written, opened and packed in a temporary folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwell.checkpoint import open_checkpoint
from qwell.checkpoint.tensor import Checkpoint
from qwell.native import NativeModel
from qwell.native.pack import write_packed
from tests.checkpoint.make import random_tensors, tiny_config, write_folder, write_gguf

K_QUANTS = {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}


def tiny(tmp: Path, dtype: str = "F32", seed: int = 0, **over: Any) -> tuple[Checkpoint, Path]:
    """A random checkpoint whose matrices have `dtype`, and the folder of its pack."""
    if dtype in K_QUANTS:
        over = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64} | over
    config = tiny_config(**over)
    tensors = random_tensors(config, seed)
    if dtype in ("BF16", "F16", "F32"):
        path = write_folder(tmp / "model", config, tensors, dtype=dtype.lower())
    else:
        path = write_gguf(tmp / "model.gguf", config, tensors, {"default": dtype})
    checkpoint = open_checkpoint(path)
    pack = tmp / "pack"
    pack.mkdir()
    write_packed(pack, checkpoint.tensors)
    return checkpoint, pack


def open_native(checkpoint: Checkpoint, pack: Path, **options: Any) -> NativeModel:
    return NativeModel.open(pack, checkpoint.config, **{"num_threads": 2} | options)
