"""Named weights -> safetensors files: one, or shards with an index.

The format is drawn in safetensors.py. A header is known before its first weight is, so weights
stream through a slab at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qwell.checkpoint.encode import Source, encoded, encoded_bytes
from qwell.checkpoint.folder import INDEX, SINGLE

SHARD_BYTES = 5_000_000_000


def write_safetensors(
    path: Path,
    tensors: Sequence[Source],
    dtype: str = "BF16",
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """One file with the weights in this order, in F32, F16 or BF16; progress counts bytes.

    Not atomic: see appear.py. Raises CheckpointError for a weight that is not finite in `dtype`,
    OSError."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        end = at + encoded_bytes(tensor, dtype)
        offsets = [at, end]
        header[tensor.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": offsets}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for slab in encoded(tensor, dtype):
                file.write(slab.data)
                progress(len(slab))


def write_shards(
    folder: Path,
    tensors: Mapping[str, Source],
    dtype: str = "BF16",
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """model.safetensors, or model-00001-of-0000N.safetensors and their index if it would be larger
    than shard_bytes. A shard is larger only if one weight is."""
    shards = _divide(list(tensors.values()), dtype, shard_bytes)
    if len(shards) == 1:
        return write_safetensors(folder / SINGLE, shards[0], dtype, progress)
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, shard, dtype, progress)
    index = {
        "metadata": {"total_size": sum(encoded_bytes(t, dtype) for t in tensors.values())},
        "weight_map": {t.name: name for name, shard in zip(names, shards) for t in shard},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    return None


def _divide(tensors: list[Source], dtype: str, shard_bytes: int) -> list[list[Source]]:
    shards: list[list[Source]] = [[]]
    size = 0
    for tensor in tensors:
        own = encoded_bytes(tensor, dtype)
        if shards[-1] and size + own > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += own
    return shards
