"""Int8 pages of keys and values: written and read as the rule says, and attention over them."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from qwell import _core
from qwell.model.weights import Rope
from tests.native.bits import F32, assert_same_bits, raw, read_page
from tests.native.talks import MAX_ROWS, Reader, Talk, poisonable, read_alone, read_in_chunks
from tests.native.test_kernels import to_bf16
from tests.native.tiny import open_native

ISAS = _core.isa_available()
EMULATED = ["emulated-pairs", *(["emulated"] if "avx512" in ISAS else [])]
HEAD_DIMS = (16, 48, 64, 80, 128)


def widen(bits: np.ndarray) -> F32:
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def slow_groups(x: F32) -> tuple[np.ndarray, np.ndarray]:
    """Codes [64, H] and bf16 scales [64, G] of rows x, from the definition."""
    codes, scales = np.empty(x.shape, np.int8), []
    for lo in range(0, x.shape[1], 32):
        part = x[:, lo : lo + 32]
        scale = to_bf16(np.abs(part).max(1) / np.float32(127))
        s = widen(scale)[:, None]
        exact = np.divide(part, s, out=np.zeros_like(part), where=s > 0)
        codes[:, lo : lo + 32] = np.clip(np.rint(exact), -127, 127)
        scales.append(scale)
    return codes, np.stack(scales, 1)


def centres(bias: F32, count: int) -> F32:
    """What RoPE makes of the bias at positions 0 .. count - 1: [count, H], in two rotations."""
    half = len(bias) // 2

    def turn(x: F32, angle: F32) -> F32:
        cos, sin = np.cos(angle), np.sin(angle)
        lo, hi = x[..., :half], x[..., half:]
        return np.concatenate([lo * cos - hi * sin, hi * cos + lo * sin], -1)

    at = np.arange(count)
    pages = turn(bias, (at // 64 * 64).astype(np.float32)[:, None] * freq(len(bias)))
    return turn(pages, (at % 64).astype(np.float32)[:, None] * freq(len(bias)))


def freq(head_dim: int) -> F32:
    return Rope(head_dim, 1e6).inv_freq


def still(bias: F32) -> F32:
    return Rope(len(bias), 1e6).still(bias)


def make_cache(bias: F32, keys: F32, values: F32) -> _core.KvCache:
    parts = bias, still(bias), freq(len(bias))
    cache = _core.KvCache(1, 1, len(bias), -(-len(keys) // 64), *parts, int8=True)
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        _core.cache_write(cache, i, key, value)
    return cache


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_a_cache_can_be_taken_at_once_and_keeps_what_is_in_it() -> None:
    none = np.empty(0, np.float32)
    cache = _core.KvCache(1, 1, 64, 4096, none, none, freq(64), int8=False)
    key, value = np.arange(64, dtype=np.float32), -np.arange(64, dtype=np.float32)
    _core.cache_write(cache, 70, key, value)
    page, before = _core.cache_page(cache, 1), resident_bytes()
    cache.commit()
    assert resident_bytes() - before > 0.9 * 4096 * len(page)
    assert _core.cache_page(cache, 1) == page


def heads(head_dim: int, count: int) -> tuple[F32, F32, F32]:
    """A bias with channels a hundred times the others, as Qwen2.5 has them, keys near what RoPE
    makes of it, values; groups of zeros and of denormals."""
    rng = np.random.default_rng(head_dim)
    keys, values = rng.standard_normal((2, count, head_dim), np.float32)
    bias = rng.standard_normal(head_dim, np.float32)
    bias[::11] *= 100
    bias[-2:] *= 100
    keys += centres(bias, count)
    values[1, -16:] = 0
    values[2] *= 1e-38
    return bias, keys, values


def unpacked(isa: str, cache: _core.KvCache, head_dim: int) -> tuple[F32, F32]:
    """Keys and values [tokens, H] as attention reads them."""
    keys, values = [], []
    for page in range(cache.pages):
        got = np.empty(2 * 64 * head_dim, np.uint16)
        _core.cache_unpack(isa, cache, page, got)
        for found, part in zip((keys, values), read_page(got, head_dim), strict=True):
            found.append(widen(part))
    return np.concatenate(keys), np.concatenate(values)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_codes_and_scales_are_as_the_rule_says(head_dim: int) -> None:
    _, keys, values = heads(head_dim, 64)
    cache = make_cache(np.zeros(head_dim, np.float32), keys, values)  # no bias: plain groups
    (k, ks), (v, vs) = slow_groups(keys), slow_groups(values)
    want = b"".join(np.ascontiguousarray(part).tobytes() for part in (k.T, ks.T, v, vs))
    assert _core.cache_page(cache, 0) == want
    for isa in ISAS:
        got = unpacked(isa, cache, head_dim)
        for found, codes, scales in zip(got, (k, v), (ks, vs), strict=True):
            exact = codes * np.repeat(widen(scales), 32, 1)[:, :head_dim]
            assert found.tobytes() == widen(to_bf16(exact.astype(np.float32))).tobytes(), isa


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_the_bias_does_not_cost_accuracy(head_dim: int) -> None:
    bias, keys, values = heads(head_dim, 200)
    cache = make_cache(bias, keys, values)
    want = unpacked("scalar", cache, head_dim)
    for isa in ISAS:
        for got, same in zip(unpacked(isa, cache, head_dim), want, strict=True):
            assert_same_bits(got[:200], same[:200], isa)
    rest = keys - centres(bias, 200)
    step = np.abs(rest).max() / 127  # of a code; and bf16 rounds the sum
    kept = keys - still(bias)
    assert (np.abs(want[0][:200] - kept) <= 0.51 * step + np.abs(kept) * 2.0**-8).all()
    assert (np.abs(want[1][:200] - values) <= np.abs(values).max() / 127).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    bias, keys, values = heads(64, 64)
    keys[7, 40] = values[9, 3] = bad
    cache = make_cache(bias, keys, values)
    for isa in ISAS:
        k, v = unpacked(isa, cache, 64)
        assert np.isnan(k[7, 32:]).all() and np.isnan(v[9, :32]).all(), isa
        assert np.isnan(k).sum() == np.isnan(v).sum() == 32, isa


@pytest.mark.parametrize(("head_dim", "rows", "first"), [(64, 1, 2070), (48, 5, 1021), (128, 3, 0)])
def test_attention_reads_what_the_pages_stand_for(head_dim: int, rows: int, first: int) -> None:
    bias, keys, values = heads(head_dim, first + rows)
    cache = make_cache(bias, keys, values)
    whole = np.empty((cache.pages, 2 * 64 * head_dim), np.uint16)
    for page in range(cache.pages):
        _core.cache_unpack("scalar", cache, page, whole[page])
    q = np.random.default_rng(0).standard_normal((rows, 3 * head_dim), np.float32)
    for isa in ISAS:
        got, want = np.empty_like(q), np.empty_like(q)
        _core.cache_attention(isa, q, cache, first, got)
        _core.attention(isa, q, raw(whole), head_dim, first, want)
        assert_same_bits(got, want, isa)


@pytest.mark.parametrize("isa", [*ISAS, *EMULATED])
def test_one_answer(isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, threads and poisoned neighbours change no bit; long rows are cut into parts."""
    monkeypatch.setenv("QWELL_FORCE_ISA", isa)
    checkpoint, folder = poisonable(tmp_path, "Q5_0")
    talk = Talk.random(1300 if isa != "scalar" else 300, 200, seed=1)
    models = [
        open_native(checkpoint, folder, num_threads=n, max_rows=MAX_ROWS, kv_dtype="int8")
        for n in (1, 2)
    ]
    want = read_alone(models[0], talk)
    assert np.isfinite(want).all()
    for model in models:
        assert_same_bits(read_in_chunks(model, talk, [17], poison=True), want)
    plain = open_native(checkpoint, folder, max_rows=MAX_ROWS)
    assert not np.array_equal(read_alone(plain, talk), want)
    reader = Reader(models[1], [talk, Talk.random(70, 60, seed=2)])
    reader.step({0: 200, 1: 60})
    while reader.done[0] < len(talk.ids):
        reader.step({0: 1, 1: 1} if reader.done[1] < 70 else {0: 1})
    assert_same_bits(reader.logits(0), want)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_key_that_is_not_finite_is_nan_throughout(bad: float) -> None:
    """In bf16 pages: infinity alone could make its score -infinity, which weighs nothing."""
    none = np.empty(0, np.float32)
    cache = _core.KvCache(1, 1, 16, 1, none, none, freq(16), int8=False)
    key = np.ones(16, np.float32)
    _core.cache_write(cache, 5, key, key)
    key[3] = bad
    _core.cache_write(cache, 6, key, key)
    keys, values = read_page(np.frombuffer(_core.cache_page(cache, 0), np.uint16), 16)
    assert np.isnan(widen(keys[6])).all() and (widen(keys[5]) == 1).all()
    assert np.isfinite(widen(values[6])).sum() == 15
