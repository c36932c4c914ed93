"""Headers of safetensors files that lie: each is refused by the name of what is wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from qwell.checkpoint.safetensors import read_safetensors
from qwell.errors import CheckpointError, UnsupportedModelError
from tests.checkpoint import make
from tests.checkpoint.refusal import refused


def entry(begin: int, end: int, dtype: Any = "F32", shape: Any = None) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def read(path: Path, header: Any, size: int) -> Any:
    text = header if isinstance(header, str) else json.dumps(header)
    return read_safetensors(make.write_raw_safetensors(path / "x.safetensors", text, b"\0" * size))


def test_order_in_the_header_is_free(tmp_path: Path) -> None:
    tensors = read(tmp_path, {"b": entry(8, 16), "a": entry(0, 8)}, 16)
    assert list(tensors) == ["a", "b"] and tensors["b"].shape == (2,)


@pytest.mark.parametrize(
    "header, word",
    [
        ({"a": entry(0, 8), "b": entry(12, 16)}, "'b' starts at 12, not 8: a hole"),
        ({"a": entry(4, 16)}, "a hole"),
        ({"a": entry(0, 8), "b": entry(4, 16)}, "an overlap"),
        ({"a": entry(0, 16), "b": entry(0, 16)}, "an overlap"),
        ({"a": entry(0, 12)}, "4 bytes belong to no tensor"),
        ({"a": entry(0, 20)}, "'a' ends at 20 of 16"),
        ({}, "16 bytes belong to no tensor"),
        ({"a": entry(0, 16, shape=[3])}, "'a' has 16 bytes for F32 of shape [3]"),
        ({"a": entry(0, 16, "BF16", [4])}, "'a' has 16 bytes for BF16"),
        ({"a": entry(0, 16, shape=[2**39, 2**39])}, "'a' has 16 bytes"),
        ({"a": entry(0, 16, shape=[2**63])}, "'a' has a shape"),
        ({"a": entry(0, 16, shape=[-4])}, "'a' has a shape"),
        ({"a": entry(0, 16, shape=[4.0])}, "'a' has a shape"),
        ({"a": entry(0, 16, shape=[True, 4])}, "'a' has a shape"),
        ({"a": entry(0, 16, shape="4")}, "'a' has a shape"),
        ({"a": entry(0, 16, shape=[])}, "'a' has a shape"),
        ({"a": entry(0, 16, shape=[1] * 5)}, "'a' has a shape"),
        ({"a": entry(0, 0, shape=[0])}, "'a' has a shape"),
        ({"a": entry(16, 0)}, "'a' has a shape"),
        ({"a": entry(0, 16) | {"data_offsets": [0, 16, 32]}}, "two integers"),
        ({"a": entry(0, 16) | {"data_offsets": [0, 2**64]}}, "two integers"),
        ({"a": entry(0, 16) | {"data_offsets": [-16, 0]}}, "two integers"),
        ({"a": entry(0, 16) | {"data_offsets": None}}, "two integers"),
        ({"a": entry(0, 16) | {"extra": 1}}, "exactly dtype, shape and data_offsets"),
        ({"a": {"dtype": "F32", "shape": [4]}}, "exactly dtype, shape and data_offsets"),
        ({"a": 7}, "exactly dtype, shape and data_offsets"),
        ({"__metadata__": {"a": 1}}, "__metadata__"),
        ({"__metadata__": []}, "__metadata__"),
        ('{"a": %s, "a": %s}' % ((json.dumps(entry(0, 16)),) * 2), "'a' appears twice"),
        ('{"a": {"dtype": "F32", "dtype": "F32"}}', "'dtype' appears twice"),
        ("not json", "not sound JSON"),
        ("[1]", "not a JSON object"),
        ("", "not sound JSON"),
    ],
)
def test_lies(tmp_path: Path, header: Any, word: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, header, 16)
    assert word in str(caught.value) and "x.safetensors" in str(caught.value)


@pytest.mark.parametrize("dtype", ["I32", "F64", "F8_E4M3", "U8", "", None, ["F32"], {}])
def test_only_float_weights(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="'a' has dtype"):
        read(tmp_path, {"a": entry(0, 16, dtype, [4])}, 16)


def model(tmp_path: Path, raw: bytes, pad: int = 0) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(make.tiny_config()))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(raw)
        file.truncate(max(len(raw), pad))
    return tmp_path


@pytest.mark.parametrize(
    "raw, pad, word",
    [
        (b"", 0, "is empty"),
        (b"\0" * 7, 0, "the header length"),
        (b"\0" * 4096, 0, "not sound JSON"),
        (struct.pack("<Q", 2**63), 0, "the header claims"),
        (struct.pack("<Q", 2**64 - 1), 100, "the header claims"),
        (struct.pack("<Q", 100_000_000), 64, "the header claims 100,000,000"),
        (struct.pack("<Q", 100_000_000), 100_000_008, "the header needs 100,000,000"),
        (struct.pack("<Q", 2 << 20) + b"{" + b" " * ((2 << 20) - 2) + b"}", 0, "is missing"),
        (struct.pack("<Q", 2 << 20) + b'{"":[' + b"[]," * 699_000, (2 << 20) + 8, "sound JSON"),
    ],
)
def test_headers_of_absurd_size(tmp_path: Path, raw: bytes, pad: int, word: str) -> None:
    refused(model(tmp_path, raw, pad), word)
