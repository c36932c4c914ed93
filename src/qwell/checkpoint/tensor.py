"""What this room hands out: a named tensor over mapped bytes, and a whole checkpoint.

A Tensor is a view: opening a checkpoint reads no weights. It can give its rows as float32 and
its raw bytes; how a kernel wants them is not its business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Literal

from qwell.checkpoint.blocks import FORMATS, Bytes, Floats, dequantise, finite
from qwell.config import GenerationConfig, ModelConfig
from qwell.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class Tensor:
    """A weight as it stands in its file."""

    name: str
    """Hugging Face name, e.g. model.layers.0.self_attn.q_proj.weight."""
    dtype: str
    """A key of blocks.FORMATS: F32, F16, BF16, Q4_0 .. Q8_0, Q2_K .. Q6_K."""
    shape: tuple[int, ...]
    """Row-major, Hugging Face order: [out, in] for a matrix."""
    data: Bytes
    """uint8 [nbytes], read-only, exactly the tensor's bytes in the file."""
    source: str = ""
    """The file, for messages."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (one index of the first axis of a matrix)."""
        return nbytes(self.dtype, (1, *self.shape[1:]))

    def rows_bytes(self, start: int = 0, stop: int | None = None) -> Bytes:
        """Rows start..stop of a matrix, undecoded: uint8 [stop - start, row_bytes], a view."""
        start, stop = self._span(start, stop)
        return self.data.reshape(self.shape[0], -1)[start:stop]

    def float32(self, start: int = 0, stop: int | None = None) -> Floats:
        """Rows start..stop as float32 [stop - start, ...], a new array; exact for every format.

        A row of a one-dimensional tensor is one element."""
        start, stop = self._span(start, stop)
        if len(self.shape) == 1:  # a block may span several of its rows
            return dequantise(self.dtype, self.data)[start:stop]
        part = self.rows_bytes(start, stop).reshape(-1)
        return dequantise(self.dtype, part).reshape(stop - start, *self.shape[1:])

    def _span(self, start: int, stop: int | None) -> tuple[int, int]:
        stop = self.shape[0] if stop is None else stop
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"{self.name}: rows {start}..{stop} of {self.shape[0]}")
        return start, stop


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened, fully checked checkpoint: every tensor is there with the shape config implies."""

    files: tuple[Path, ...]
    """Every file it was read from; the weights first."""
    format: Literal["gguf", "safetensors"]
    config: ModelConfig
    generation: GenerationConfig
    tensors: Mapping[str, Tensor]
    """By Hugging Face name. lm_head.weight is there only if the model has a head of its own."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """GGUF keys and values (arrays as lists, decoded on first use); {} for a folder."""
    folder: Path | None = None
    """The folder of config.json and the tokenizer files; None for a GGUF."""


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor. Raises ValueError if its rows are not whole blocks."""
    form = FORMATS[dtype]
    if shape[-1] % form.block:
        raise ValueError(f"rows of {shape[-1]:,} are not whole {dtype} blocks of {form.block}")
    return prod(shape) // form.block * form.block_bytes


def check_finite(tensor: Tensor) -> None:
    """Raises CheckpointError if a weight, or a scale of a block, is NaN or infinite.

    Reads every float of the tensor once: about 0.1 s for 100 MB."""
    if not finite(tensor.dtype, tensor.data):
        kind = "weight" if FORMATS[tensor.dtype].block == 1 else "block scale"
        raise CheckpointError(
            f"{tensor.source}: tensor {tensor.name} holds a {kind} that is NaN or infinite: "
            "the model is broken; fetch it again or use another export"
        )
