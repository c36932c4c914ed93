"""Weights on their way out: the numbers of the gguf package, and formats that survive a round."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qwell.checkpoint.blocks import dequantise
from qwell.checkpoint.encode import SLAB, encoded, encoded_bytes, quantise
from qwell.checkpoint.tensor import Tensor, nbytes
from qwell.errors import CheckpointError
from tests.checkpoint.make import random_blocks
from tests.model.tiny import FloatTensor

DTYPES = ("F32", "F16", "BF16", "Q8_0")


def theirs(values: np.ndarray, dtype: str) -> np.ndarray:
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType[dtype])
    return np.ascontiguousarray(raw).reshape(-1).view(np.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_of_the_gguf_package(dtype: str) -> None:
    rng = np.random.default_rng(1)
    for scale in (1e-8, 1e-3, 1.0, 300.0):
        values = (rng.standard_normal((64, 320)) * scale).astype(np.float32)
        values[3] = 0
        values[5, :32] = np.arange(32) / 2  # ties in bf16's and q8_0's rounding
        np.testing.assert_array_equal(quantise(dtype, values), theirs(values, dtype))


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, 64, elements=st.floats(-1000, 1000, width=32)))
def test_q8_0_equals_on_any_numbers(values: np.ndarray) -> None:
    # d below float16's smallest number is no case of a model; both give zeros or nonsense there
    values = np.where(np.abs(values) < 1e-4, np.float32(0), values)
    np.testing.assert_array_equal(quantise("Q8_0", values), theirs(values, "Q8_0"))


def test_q8_0_is_within_half_a_step() -> None:
    values = np.random.default_rng(2).standard_normal(32 * 500).astype(np.float32)
    back = dequantise("Q8_0", quantise("Q8_0", values)).reshape(-1, 32)
    groups = values.reshape(-1, 32)
    top = np.abs(groups).max(axis=1, keepdims=True)
    assert (np.abs(back - groups) <= top / 127 * (0.5 + 127 * 2.0**-11)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_in_the_format_is_copied(dtype: str) -> None:
    """Q8_0 blocks that no quantiser would make (no code of 127) stay as they are."""
    rng = np.random.default_rng(3)
    data = quantise(dtype, rng.standard_normal((96, 64)).astype(np.float32))
    if dtype == "Q8_0":
        data.view([("d", "<f2"), ("qs", "i1", 32)])["qs"] //= 2
    tensor = Tensor("w", dtype, (96, 64), data)
    np.testing.assert_array_equal(np.concatenate([*encoded(tensor, dtype)]), data)


@pytest.mark.parametrize("source", ["F16", "BF16", "Q8_0", "Q4_K", "Q6_K"])
def test_float32_is_exact_from_every_format(source: str) -> None:
    rng = np.random.default_rng(4)
    if source in DTYPES:
        data = quantise(source, rng.standard_normal((32, 256)).astype(np.float32))
    else:
        data = random_blocks(source, 32).reshape(-1)
    tensor = Tensor("w", source, (32, 256), data)
    written = np.concatenate([*encoded(tensor, "F32")])
    np.testing.assert_array_equal(written.view(np.float32), tensor.float32().reshape(-1))


def test_slabs_are_small_and_whole() -> None:
    tensor = FloatTensor("w", np.ones((5 * SLAB // 4096, 4096), np.float32))
    slabs = [*encoded(tensor, "BF16")]
    assert len(slabs) == 5 and max(map(len, slabs)) == 2 * SLAB
    assert sum(map(len, slabs)) == encoded_bytes(tensor, "BF16") == nbytes("BF16", tensor.shape)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(np.nan, "F32"), (np.inf, "BF16"), (70_000, "F16"), (3.4e38, "BF16"), (1e7, "Q8_0")],
)
def test_what_is_not_finite_is_refused(value: float, dtype: str) -> None:
    values = np.ones((4, 64), np.float32)
    values[2, 40] = value
    if value == 1e7:
        values[2, 40] = 127 * 70_000  # its scale is no float16
    with pytest.raises(CheckpointError, match=r"w.*(NaN|too large)"):
        [*encoded(FloatTensor("w", values), dtype)]


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(CheckpointError, match="blocks of 32; write it as bf16"):
        encoded_bytes(FloatTensor("w", np.ones((4, 40), np.float32)), "Q8_0")
