"""One safetensors file -> named tensors.

    | N u64 | N bytes of JSON: {name: {dtype, shape, data_offsets: [begin, end]}} | buffer |

Offsets count from the start of the buffer; the tensors must cover it exactly, without a hole or
an overlap. Nothing but the header is read. Knows no model; source: the format's specification.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwell.checkpoint.mapped import DAMAGED, MAX_JSON, U64, Reader, map_file, parse_object, quoted
from qwell.checkpoint.tensor import Tensor, nbytes
from qwell.errors import CheckpointError, UnsupportedModelError

_DTYPES = ("F32", "F16", "BF16")
_MAX_DIM = 2**40


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file, in file order.

    The format allows headers up to 100 MB; above MAX_JSON (2 MB, twenty times the largest of
    the family) they are refused. Raises NotFoundError, CheckpointError (names file and tensor),
    UnsupportedModelError for a dtype that is not a float."""
    data = map_file(path)
    reader = Reader(data, path, 8 + MAX_JSON)
    length = reader.number(U64, "the header length")
    if length > len(data) - 8:
        raise reader.fault(f"the header claims {length:,} of {len(data):,} bytes: {DAMAGED}")
    start = reader.take(length, "the header")
    header = parse_object(reader.view[start : start + length], str(path))
    _check_metadata(header.pop("__metadata__", {}), path)
    buffer = data[8 + length :]
    entries = [(name, *_entry(name, raw, path)) for name, raw in header.items()]
    entries.sort(key=lambda entry: entry[3:])
    tensors, end_of_last = {}, 0
    for name, dtype, shape, begin, end in entries:
        if begin != end_of_last:
            kind = "a hole" if begin > end_of_last else "an overlap"
            raise _fault(path, name, f"starts at {begin:,}, not {end_of_last:,}: {kind}")
        if end > len(buffer):
            raise _fault(path, name, f"ends at {end:,} of {len(buffer):,} bytes")
        tensors[name] = Tensor(name, dtype, shape, buffer[begin:end], str(path))
        end_of_last = end
    if end_of_last != len(buffer):
        raise CheckpointError(
            f"{path}: {len(buffer) - end_of_last:,} bytes belong to no tensor: {DAMAGED}"
        )
    return tensors


def _entry(name: str, raw: Any, path: Path) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, begin, end of one header entry; its size agrees with its shape."""
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise _fault(path, name, "does not state exactly dtype, shape and data_offsets")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if dtype not in _DTYPES:
        raise UnsupportedModelError(
            f"{path}: tensor {quoted(name)} has dtype {quoted(str(dtype))}; "
            f"qwell reads {', '.join(_DTYPES)} weights"
        )
    if not _counts(shape) or not 1 <= len(shape) <= 4 or 0 in shape:
        raise _fault(path, name, "has a shape that is not 1 to 4 positive integers")
    if not _counts(offsets) or len(offsets) != 2:
        raise _fault(path, name, "has data_offsets that are not two integers")
    begin, end = offsets
    if end - begin != nbytes(dtype, tuple(shape)):
        raise _fault(path, name, f"has {end - begin:,} bytes for {dtype} of shape {shape}")
    return dtype, tuple(shape), begin, end


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < _MAX_DIM for n in value)


def _check_metadata(raw: Any, path: Path) -> None:
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise CheckpointError(f"{path}: __metadata__ is not a map of strings: {DAMAGED}")


def _fault(path: Path, name: str, message: str) -> CheckpointError:
    return CheckpointError(f"{path}: tensor {quoted(name)} {message}: {DAMAGED}")
