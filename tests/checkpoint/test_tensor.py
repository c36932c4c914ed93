"""Rows, views and the finite check of a Tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwell.checkpoint import Tensor, check_finite, open_checkpoint
from qwell.checkpoint.tensor import nbytes
from qwell.errors import CheckpointError
from tests.checkpoint import make


def q8(rows: int, columns: int) -> Tensor:
    values = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    return Tensor("w", "Q8_0", (rows, columns), make.quantised(values, "Q8_0").reshape(-1), "f")


def test_rows_equal_the_slice_of_the_whole() -> None:
    tensor = q8(5, 64)
    whole = tensor.float32()
    assert whole.shape == (5, 64) and whole.dtype == np.float32
    assert np.array_equal(tensor.float32(1, 4), whole[1:4])
    assert np.array_equal(tensor.float32(3), whole[3:])
    assert tensor.float32(2, 2).shape == (0, 64)


def test_rows_bytes_are_views_of_whole_rows() -> None:
    tensor = q8(5, 64)
    assert tensor.row_bytes == 68
    rows = tensor.rows_bytes(1, 3)
    assert rows.shape == (2, 68) and np.shares_memory(rows, tensor.data)
    assert np.array_equal(rows.reshape(-1), tensor.data[68 : 3 * 68])


@pytest.mark.parametrize("span", [(-1, 2), (0, 6), (3, 2), (6, None)])
def test_rows_outside_the_tensor_are_an_error(span: tuple[int, int | None]) -> None:
    with pytest.raises(ValueError, match="rows"):
        q8(5, 64).float32(*span)
    with pytest.raises(ValueError, match="rows"):
        q8(5, 64).rows_bytes(*span)


def test_a_quantised_vector_gives_elements() -> None:
    values = np.arange(64, dtype=np.float32)
    tensor = Tensor("v", "Q8_0", (64,), make.quantised(values, "Q8_0"))
    assert np.array_equal(tensor.float32(30, 40), tensor.float32()[30:40])


def test_rows_must_be_whole_blocks() -> None:
    with pytest.raises(ValueError, match="whole Q4_K blocks"):
        nbytes("Q4_K", (4, 64))
    assert nbytes("Q4_K", (4, 512)) == 4 * 2 * 144


def test_data_is_read_only(tmp_path: Path) -> None:
    config = make.tiny_config()
    path = make.write_folder(tmp_path, config, make.random_tensors(config))
    tensor = open_checkpoint(path).tensors["model.norm.weight"]
    with pytest.raises(ValueError, match="read-only"):
        tensor.data[0] = 1


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_weight_is_named(tmp_path: Path, dtype: str, bad: float) -> None:
    config = make.tiny_config()
    tensors = make.random_tensors(config)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 5] = np.inf
    checkpoint = open_checkpoint(make.write_folder(tmp_path, config, tensors, dtype))
    with pytest.raises(CheckpointError, match=rf"model.safetensors: tensor {name} holds a weight"):
        check_finite(checkpoint.tensors[name])
    check_finite(checkpoint.tensors["lm_head.weight"])


def test_a_broken_block_scale_is_named(tmp_path: Path) -> None:
    config = make.tiny_config()
    path = make.write_gguf(tmp_path / "m.gguf", config, make.random_tensors(config))
    tensor = open_checkpoint(path).tensors["lm_head.weight"]
    check_finite(tensor)
    data = tensor.data.copy()
    data[34:36] = np.array([np.inf], "<f2").view(np.uint8)
    broken = Tensor(tensor.name, tensor.dtype, tensor.shape, data, tensor.source)
    with pytest.raises(CheckpointError, match=r"m.gguf: tensor lm_head.weight holds a block scale"):
        check_finite(broken)
