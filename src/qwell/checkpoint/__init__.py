"""Files become named tensors, and named tensors files: safetensors folders, GGUF, adapters.

`open_checkpoint` maps the files and checks every size, name and shape before anything is used; no
weight is read until it is asked for. `write_hf` and `write_gguf` write a slab at a time. No pickle
is ever opened and no code from a model is ever run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qwell.checkpoint.adapter import Adapter, Lora, open_adapter
from qwell.checkpoint.encode import Source
from qwell.checkpoint.folder import PICKLES, open_folder, refuse_pickle
from qwell.checkpoint.gguf_model import open_gguf
from qwell.checkpoint.merge import merged
from qwell.checkpoint.save_adapter import write_adapter
from qwell.checkpoint.save_folder import write_hf
from qwell.checkpoint.save_gguf import write_gguf
from qwell.checkpoint.tensor import Checkpoint, Tensor, check_finite
from qwell.errors import CheckpointError, NotFoundError

__all__ = [
    "Adapter",
    "Checkpoint",
    "Lora",
    "Source",
    "Tensor",
    "check_finite",
    "merged",
    "open_adapter",
    "open_checkpoint",
    "write_adapter",
    "write_gguf",
    "write_hf",
]


def open_checkpoint(path: Path | Sequence[Path]) -> Checkpoint:
    """Opens a folder with config.json and safetensors, a GGUF file (the first part of a split
    finds its siblings), or a sequence of all parts of a split GGUF, in order.

    Raises NotFoundError if something is not there, CheckpointError naming file and tensor if it
    is damaged, UnsupportedModelError if it is sound but not built yet."""
    paths = [path] if isinstance(path, Path) else list(path)
    if not paths:
        raise CheckpointError("no model file is given; give a .gguf or a folder with config.json")
    first = paths[0]
    try:
        if first.is_dir():
            return open_folder(first)
    except OSError as error:
        raise CheckpointError(f"{first}: cannot be read ({error}); check the path") from error
    if not first.exists():
        raise NotFoundError(f"{first}: there is no such file or folder")
    if first.name.endswith(PICKLES):
        refuse_pickle(first)
    if first.name.endswith(".safetensors"):
        raise CheckpointError(f"{first}: give its folder, which must also hold config.json")
    return open_gguf(paths)
