"""Every block format against the gguf package, bit for bit, and against hand-made blocks."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from qwell.checkpoint.blocks import FORMATS, SLAB, dequantise, finite, unpack
from tests.checkpoint import make

QUANTISED = [name for name in make.FORMATS if FORMATS[name].block > 1]


def oracle(name: str, data: np.ndarray) -> np.ndarray:
    return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a.reshape(-1).view(np.uint32), b.reshape(-1).view(np.uint32))


@pytest.mark.parametrize("name", make.FORMATS)
def test_block_sizes_are_those_of_ggml(name: str) -> None:
    sizes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert (FORMATS[name].block, FORMATS[name].block_bytes) == sizes


@pytest.mark.parametrize("name", QUANTISED)
def test_random_bytes_decode_as_the_oracle_does(name: str) -> None:
    """All bit patterns of every field; only the scales are kept finite. More than one slab."""
    form = FORMATS[name]
    blocks = SLAB // form.block + 7
    rng = np.random.default_rng(1)
    records = rng.integers(0, 256, (blocks, form.block_bytes), np.uint8).view(form.layout)
    for field, _ in form.floats:
        records[field] = rng.standard_normal(records[field].shape)
    data = records.view(np.uint8).reshape(1, -1)
    assert same_bits(dequantise(name, data.reshape(-1)), oracle(name, data))


@pytest.mark.parametrize("name", QUANTISED)
def test_unpacked_codes_mean_the_same_weights(name: str) -> None:
    """unpack() gives the integers a kernel packs: unsigned codes that fit 8 bits less a zero."""
    form = FORMATS[name]
    records = np.random.default_rng(3).integers(0, 256, (9, form.block_bytes), np.uint8)
    for field, _ in form.floats:
        records.view(form.layout)[field] = 0.5
    codes = unpack(name, records.reshape(-1))
    assert codes.q.dtype == np.uint8 and codes.q.shape == (9, form.block)
    assert codes.scale.shape == (9,) and codes.scale.dtype == np.float16
    for part in (codes.sub_scale, codes.sub_min):
        assert part is None or part.dtype == np.int8
    assert same_bits(codes.floats(), dequantise(name, records.reshape(-1)))


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_16_bit_float(name: str) -> None:
    data = np.arange(1 << 16, dtype="<u2").view(np.uint8)
    got = dequantise(name, data)
    want = oracle(name, data.reshape(1, -1))
    number = ~np.isnan(want.reshape(-1))
    assert same_bits(got[number], want.reshape(-1)[number])
    assert np.isnan(got[~number]).all()


def test_f32_is_the_bytes_themselves_and_a_copy() -> None:
    values = np.array([1.5, -0.0, 1e-45, np.inf, np.nan], "<f4")
    data = values.view(np.uint8)
    got = dequantise("F32", data)
    assert same_bits(got, values)
    got[0] = 7
    assert values[0] == 1.5


@pytest.mark.parametrize("name", make.FORMATS)
def test_data_may_start_at_an_odd_address(name: str) -> None:
    data = np.random.default_rng(2).integers(0, 64, 4 * FORMATS[name].block_bytes, np.uint8)
    shifted = np.concatenate([data[:1], data])[1:]
    assert same_bits(dequantise(name, shifted), dequantise(name, data))


def test_q4_0_by_hand() -> None:
    """Scale 2; the first byte holds weight 0 below and weight 16 above."""
    data = np.zeros(18, np.uint8)
    data[:2] = np.array([2.0], "<f2").view(np.uint8)
    data[2:] = 0x88
    data[2] = 0xF0
    got = dequantise("Q4_0", data)
    assert got[0] == -16 and got[16] == 14 and not got[1:16].any() and not got[17:].any()


def test_q6_k_by_hand() -> None:
    """One weight, number 32: byte 32 of ql below, bits 2-3 of byte 0 of qh, scale 2."""
    data = np.zeros(210, np.uint8)
    data[32], data[128], data[192 + 2] = 5, 0b11 << 2, 3
    data[208:] = np.array([0.5], "<f2").view(np.uint8)
    assert dequantise("Q6_K", data)[32] == 0.5 * 3 * (5 + 48 - 32)


@pytest.mark.parametrize("name", make.FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finite_sees_every_float_of_a_block(name: str, bad: float) -> None:
    form = FORMATS[name]
    clean = np.zeros(3, form.layout)
    assert finite(name, clean.view(np.uint8))
    for field, _ in form.floats:
        records = clean.copy()
        if name == "BF16":
            records[field][1] = np.array([bad], "<f4").view("<u4")[0] >> 16
        else:
            records[field][1] = bad
        assert not finite(name, records.view(np.uint8))
        assert dequantise(name, records.view(np.uint8)).size == 3 * form.block


@pytest.mark.parametrize("name", make.FORMATS)
def test_the_largest_finite_scales_give_finite_weights(name: str) -> None:
    form = FORMATS[name]
    records = np.full(form.block_bytes, 0xFF, np.uint8).view(form.layout)
    for field, exponent in form.floats:
        bits = records[field].view(f"<u{records[field].dtype.itemsize}")
        bits[...] = exponent - 1
    assert finite(name, records.view(np.uint8))
    assert np.isfinite(dequantise(name, records.view(np.uint8))).all()
