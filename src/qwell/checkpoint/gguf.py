"""One GGUF file -> its key/values and named tensors.

    | "GGUF" | version u32 | tensor count u64 | kv count u64 |
    | key/values, see metadata.py |
    | tensor: name string | n_dims u32 | dims u64[n_dims] | type u32 | offset u64 |  ...
    | padding to general.alignment | tensor data, each tensor padded to the alignment |

A string is a u64 length and UTF-8 bytes; dims come fastest first. Everything before the data
must fit in MAX_HEADER, so no count in the file can cost more than that. Knows neither names nor
architectures; source: the GGUF specification of the ggml project.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qwell.checkpoint.mapped import DAMAGED, MAX_NAME, U32, U64, Bytes, Reader, map_file, quoted
from qwell.checkpoint.metadata import Metadata, read_metadata
from qwell.checkpoint.tensor import Tensor, nbytes
from qwell.errors import UnsupportedModelError

MAX_HEADER = 16 << 20
"""Bytes before the tensor data: 6 MB in the official files, most of it the vocabulary."""
_MAX_COUNT = 1 << 13
"""Most keys, and most tensors: the official files have about 30 and at most 963."""
_MAX_ALIGNMENT = 1 << 20

_GGML_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    30: "BF16",
}


@dataclass(frozen=True, eq=False)
class GgufFile:
    """A parsed file: tensors by their GGUF names."""

    path: Path
    metadata: Metadata
    tensors: dict[str, Tensor]


def read_gguf(path: Path) -> GgufFile:
    """Parses one file; reads the header only (about 60 ms for a Qwen2.5 vocabulary).

    Raises NotFoundError, CheckpointError (names file and key or tensor), UnsupportedModelError
    for versions and types qwell does not read."""
    data = map_file(path)
    reader = Reader(data, path, MAX_HEADER)
    if bytes(data[:4]) != b"GGUF":
        raise reader.fault("is not a GGUF file; give a .gguf or a folder with config.json")
    reader.take(4, "the magic")
    _check_version(reader)
    tensors = reader.count("the tensor count", _MAX_COUNT)
    metadata = read_metadata(reader, reader.count("the key count", _MAX_COUNT))
    infos = [_tensor_info(reader) for _ in range(tensors)]
    return GgufFile(path, metadata, _place(infos, data, reader, _alignment(reader, metadata)))


def _check_version(reader: Reader) -> None:
    version = reader.number(U32, "the version")
    if version in (2, 3):
        return
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    kind = "big-endian" if swapped in (2, 3) else f"version {version}"
    raise UnsupportedModelError(
        f"{reader.path}: this GGUF is {kind}; qwell reads little-endian versions 2 and 3, "
        "convert the model again"
    )


@dataclass(frozen=True)
class _Info:
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def _tensor_info(reader: Reader) -> _Info:
    name = reader.string("a tensor name", MAX_NAME)
    what = f"tensor {quoted(name)}"
    n_dims = reader.number(U32, what)
    if not 1 <= n_dims <= 4:
        raise reader.fault(f"{what} has {n_dims:,} dimensions, not 1 to 4: {DAMAGED}")
    shape = tuple(reader.number(U64, what) for _ in range(n_dims))[::-1]
    kind, offset = reader.number(U32, what), reader.number(U64, what)
    if 0 in shape:
        raise reader.fault(f"{what} has the empty shape {shape}: {DAMAGED}")
    if kind not in _GGML_TYPES:
        raise UnsupportedModelError(
            f"{reader.path}: {what} has GGML type {kind}, which qwell does not read; "
            f"it reads {', '.join(_GGML_TYPES.values())}"
        )
    dtype = _GGML_TYPES[kind]
    try:
        return _Info(name, dtype, shape, offset, nbytes(dtype, shape))
    except ValueError as error:
        raise reader.fault(f"{what}: {error}: {DAMAGED}") from error


def _alignment(reader: Reader, metadata: Metadata) -> int:
    if "general.alignment" not in metadata:
        return 32
    value = metadata.scalar("general.alignment")
    if type(value) is not int or not 0 < value <= _MAX_ALIGNMENT or value & (value - 1):
        raise reader.fault(f"general.alignment is {value!r:.40}, not a power of two: {DAMAGED}")
    return value


def _place(infos: list[_Info], data: Bytes, reader: Reader, alignment: int) -> dict[str, Tensor]:
    """Views of the tensors. They must lie one after the other, each at the next aligned offset,
    and reach the end of the file: anything else is a damaged or doctored file."""

    def aligned(offset: int) -> int:
        return -(-offset // alignment) * alignment

    base, offset, size = aligned(reader.position), 0, len(data)
    tensors: dict[str, Tensor] = {}
    for info in infos:
        what = f"tensor {quoted(info.name)}"
        if info.name in tensors:
            raise reader.fault(f"{what} appears twice: {DAMAGED}")
        if info.offset != offset:
            raise reader.fault(f"{what} starts at {info.offset:,}, not at {offset:,}: {DAMAGED}")
        begin = base + offset
        if begin + info.size > size:
            raise reader.fault(
                f"{what} needs the bytes {begin:,} to {begin + info.size:,} "
                f"but the file ends at {size:,}: {DAMAGED}"
            )
        view = data[begin : begin + info.size]
        tensors[info.name] = Tensor(info.name, info.dtype, info.shape, view, str(reader.path))
        offset = aligned(offset + info.size)
    if size > base + offset:
        raise reader.fault(f"{size - base - offset:,} bytes follow the last tensor: {DAMAGED}")
    return tensors
