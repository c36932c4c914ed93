"""Keys in bf16 pages: without the part of their bias that RoPE hardly turns (`Rope.still`)."""

from __future__ import annotations

import numpy as np
import pytest

from qwell import _core
from qwell.model.weights import Rope
from tests.native.bits import F32, assert_same_bits, read_page
from tests.native.test_kernels import to_bf16

ISAS = [*_core.isa_available(), "emulated-pairs"]
H, POSITIONS = 64, 300
ROPE = Rope(H, 1e6)


def bias() -> F32:
    """As Qwen2.5 has it: large in the channels that turn slowest."""
    found = np.random.default_rng(1).standard_normal(H, np.float32)
    found[[30, 31, 62, 63]] *= 150
    return found


def keys_and_values(bias: F32) -> tuple[F32, F32]:
    """What RoPE makes of bias and a token's part at positions 0, 1, ...; values."""
    rng = np.random.default_rng(2)
    keys, values = rng.standard_normal((2, POSITIONS, H), np.float32)
    keys += bias
    angle = np.outer(np.arange(POSITIONS), ROPE.inv_freq)
    lo, hi = keys[:, : H // 2], keys[:, H // 2 :]
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.concatenate([lo * cos - hi * sin, hi * cos + lo * sin], 1)
    return turned.astype(np.float32), values


def make_cache(keys: F32, values: F32, bias: F32, still: F32) -> _core.KvCache:
    cache = _core.KvCache(1, 1, H, -(-len(keys) // 64), bias, still, ROPE.inv_freq, int8=False)
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        _core.cache_write(cache, i, key, value)
    return cache


def test_still_is_the_slow_part_of_the_bias() -> None:
    still = ROPE.still(bias().reshape(1, H))[0]
    slow = 1e6 ** (-2 * (np.arange(H) % 32) / H) * 32_768 <= 1
    assert slow.sum() == 14  # pairs 25 to 31
    assert np.array_equal(still, np.where(slow, bias(), 0))


def test_a_page_holds_keys_without_it() -> None:
    b = bias()
    keys, values = keys_and_values(b)
    cache = make_cache(keys, values, b, ROPE.still(b))
    for page in range(cache.pages):
        raw = np.frombuffer(_core.cache_page(cache, page), np.uint16)
        got, rows = read_page(raw, H), slice(64 * page, min(64 * page + 64, POSITIONS))
        count = rows.stop - rows.start
        assert np.array_equal(got[0][:count], to_bf16(keys[rows] - ROPE.still(b)))
        assert np.array_equal(got[1][:count], to_bf16(values[rows]))


def attend(q: F32, keys: F32, values: F32) -> F32:
    """One query [group * H] in float64, from the definition."""
    rows = q.reshape(-1, H).astype(np.float64) @ keys.T.astype(np.float64) / np.sqrt(H)
    weights = np.exp(rows - rows.max(1, keepdims=True))
    found: F32 = (weights @ values / weights.sum(1, keepdims=True)).reshape(1, -1)
    return found


@pytest.mark.parametrize("isa", ISAS)
def test_attention_over_them_is_nearer_to_the_truth(isa: str) -> None:
    """Softmax does not see what all keys share, and bf16 rounds less away."""
    b = bias()
    keys, values = keys_and_values(b)
    q = np.random.default_rng(3).standard_normal((1, 7 * H), np.float32)
    want = attend(q, keys, values)
    errors = []
    for still in (ROPE.still(b), np.zeros_like(b)):
        got = np.empty_like(q)
        _core.cache_attention(isa, q, make_cache(keys, values, b, still), POSITIONS - 1, got)
        errors.append(np.abs(got - want).mean())
    assert errors[0] < 0.0005
    assert errors[1] > 5 * errors[0]


def test_no_bias_nothing_left_out() -> None:
    keys, values = keys_and_values(np.zeros(H, np.float32))
    none = np.empty(0, np.float32)
    plain, zeros = (make_cache(keys, values, n, n) for n in (none, np.zeros(H, np.float32)))
    q = np.random.default_rng(4).standard_normal((1, H), np.float32)
    got, want = np.empty_like(q), np.empty_like(q)
    _core.cache_attention("scalar", q, plain, POSITIONS - 1, got)
    _core.cache_attention("scalar", q, zeros, POSITIONS - 1, want)
    assert_same_bits(got, want)
