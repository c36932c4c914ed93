"""A checkpoint becomes a Decoder, and a Decoder a Hugging Face folder.

Reads what `checkpoint` reads (safetensors folders, GGUF); integer blocks are dequantised,
which is a start for training, not the weights the file was made from. Writes config.json,
generation_config.json, the tokenizer's files and safetensors, which transformers and vLLM open
unchanged; a folder is whole or not there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwell.checkpoint import Checkpoint, open_checkpoint
from qwell.checkpoint import tensor as stored
from qwell.checkpoint.appear import appearing_folder
from qwell.checkpoint.blocks import FORMATS
from qwell.checkpoint.names import EMBEDDING, HEAD
from qwell.checkpoint.save_folder import hf_config, hf_generation, write_json
from qwell.checkpoint.save_safetensors import write_shards
from qwell.config import GenerationConfig, ModelConfig
from qwell.engine.packed import facts_of, tokenizer_of
from qwell.errors import UsageError
from qwell.hub.resolve import resolve
from qwell.text.files import hf_files
from qwell.text.tokenizer import Tokenizer
from qwell.train.modules import Decoder
from qwell.train.packed import PackedKind, pack_linears

HeadChoice = Literal["own", "tied"]

INIT_STD = 0.02
"""Standard deviation of fresh matrices: initializer_range of the official configs."""

_READERS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Matrices whose input is the normed residual stream."""

_DTYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
SHARD_BYTES = 4 << 30
_SLAB = 1 << 22
"""Weights read at a time."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model to train, and what is needed to write it down again."""

    decoder: Decoder
    generation: GenerationConfig
    tokenizer: Tokenizer
    chat_template: str | None
    note: str
    """What a user should know of the start: which head, which number format."""


def load_decoder(
    model: str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    head: HeadChoice = "own",
    packed: PackedKind | None = None,
    recompute: bool = False,
) -> Loaded:
    """Opens `model` (an alias, a Hugging Face id, a folder, a .gguf file) for training.

    head: a GGUF of a tied model carries a head of its own beside the embedding, in a finer number
    format. 'own' trains both, as the file has them; 'tied' makes one matrix of them again, the
    head's values. packed: holds the matrices of the layers as small integers that cannot be learnt,
    for QLoRA: 'file' as a GGUF has them, 'int8' or 'int4' rounded. Raises what `resolve` and
    `open_checkpoint` raise."""
    checkpoint = open_checkpoint(resolve(model).paths)
    decoder, note = decoder_of(checkpoint, dtype=dtype, device=device, head=head, packed=packed)
    decoder.ops.recompute = recompute
    template = facts_of(checkpoint).chat_template
    return Loaded(decoder, checkpoint.generation, tokenizer_of(checkpoint), template, note)


def decoder_of(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    head: HeadChoice = "own",
    packed: PackedKind | None = None,
) -> tuple[Decoder, str]:
    """The decoder over the checkpoint's weights, and a line on what it starts from."""
    config, tensors = checkpoint.config, dict(checkpoint.tensors)
    formats = sorted({t.dtype for t in tensors.values()})
    note = f"weights from {', '.join(formats)}"
    if HEAD in tensors:
        note += ", a head of its own"
        if head == "tied":
            tensors[EMBEDDING] = tensors.pop(HEAD)
            config = replace(config, tie_word_embeddings=True)
            note += ", used as the embedding too"
    else:
        note += ", head tied to the embedding"
    decoder = Decoder(config, dtype=dtype, device=device)
    if packed is not None:
        pack_linears(decoder.model.layers, "model.layers", tensors, packed)
        note += f", layers packed as {packed}"
        matrices = (t for n, t in tensors.items() if "layers" in n and len(t.shape) == 2)
        if packed == "file" and any(FORMATS[t.dtype].codes is None for t in matrices):
            note += ", those the file holds in floats as int8"
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            source = tensors[EMBEDDING if name == HEAD and HEAD not in tensors else name]
            _fill(parameter, source)
    return decoder, note


def init_decoder(
    config: ModelConfig,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    recompute: bool = False,
    std: float = INIT_STD,
) -> Decoder:
    """A fresh model: matrices from a normal of INIT_STD, those that read the residual stream of
    std, biases 0, norms 1 (the scheme of the official modeling code). The same seed gives the same
    weights in every dtype up to rounding."""
    decoder = Decoder(config, dtype=dtype, device=device, recompute=recompute)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif name.endswith("norm.weight"):
                parameter.fill_(1.0)
            else:
                fresh = torch.empty(parameter.shape, dtype=torch.float32)
                spread = std if name.split(".")[-2] in _READERS else INIT_STD
                parameter.copy_(fresh.normal_(0.0, spread, generator=generator))
    return decoder


def _fill(parameter: Tensor, source: stored.Tensor) -> None:
    """Copies a stored tensor into a parameter, a slab of rows at a time."""
    if source.dtype == "BF16" and parameter.dtype == torch.bfloat16:
        bits = torch.from_numpy(np.array(source.data).view(np.int16))
        parameter.copy_(bits.view(torch.bfloat16).view(source.shape))
        return
    rows = max(1, _SLAB // max(1, int(np.prod(source.shape[1:]))))
    for start in range(0, source.shape[0], rows):
        stop = min(start + rows, source.shape[0])
        parameter[start:stop].copy_(torch.from_numpy(source.float32(start, stop)))


# --- writing --------------------------------------------------------------------------------


def save_folder(
    folder: Path,
    decoder: Decoder,
    *,
    generation: GenerationConfig = GenerationConfig(),  # noqa: B008 (frozen)
    tokenizer: Tokenizer | None = None,
    chat_template: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes `folder`, which must not exist: whole or not at all, in the decoder's own dtype.

    Raises UsageError if it exists, StorageError if it cannot be written, CheckpointError for a
    weight that is not finite."""
    refuse_existing(folder)
    text_side = {} if tokenizer is None else hf_files(tokenizer, chat_template)
    dtype = _DTYPES[decoder.model.norm.weight.dtype]
    with appearing_folder(folder, force=False, mark="config.json") as part:
        config = hf_config(decoder.config, generation, dtype)
        # Who reads config.json alone takes one end token, the first.
        write_json(part / "config.json", config | {"eos_token_id": generation.eos_token_ids[0]})
        write_json(part / "generation_config.json", hf_generation(generation))
        for name, data in text_side.items():
            (part / name).write_bytes(data)
        write_shards(part, _stored(decoder), dtype.upper(), shard_bytes=shard_bytes)


def refuse_existing(folder: Path) -> None:
    """Raises UsageError if something is there: what a run learnt replaces nothing by itself."""
    if folder.exists():
        raise UsageError(f"{folder}: exists already; give a new folder")


def _stored(decoder: Decoder) -> dict[str, stored.Tensor]:
    """Every tensor the folder holds, by checkpoint name, over the parameters' own bytes; a tied
    head is not one."""
    return {
        name: as_stored(name, p)
        for name, p in decoder.named_parameters()  # gives a shared parameter once
    }


def as_stored(name: str, tensor: Tensor) -> stored.Tensor:
    """A tensor `checkpoint` can write, over the same bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return stored.Tensor(name, _DTYPES[tensor.dtype].upper(), tuple(tensor.shape), data)
