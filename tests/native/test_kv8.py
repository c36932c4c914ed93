"""Int8 pages of keys and values: written and read as the rule says, and attention over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwell import _core
from tests.native.bits import F32, assert_same_bits, raw
from tests.native.talks import MAX_ROWS, Reader, Talk, poisonable, read_alone, read_in_chunks
from tests.native.test_kernels import to_bf16
from tests.native.tiny import open_native

ISAS = _core.isa_available()
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


def slow_page(keys: F32, values: F32) -> np.ndarray:
    (k, ks), (v, vs) = slow_groups(keys), slow_groups(values)
    parts = (k.T, ks.T, v, vs)
    return np.concatenate([np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts])


def slow_unpacked(keys: F32, values: F32) -> np.ndarray:
    def back(x: F32) -> np.ndarray:
        codes, scales = slow_groups(x)
        return to_bf16(codes.astype(np.float32) * np.repeat(widen(scales), 32, 1)[:, : x.shape[1]])

    return np.concatenate([back(keys).T.reshape(-1), back(values).reshape(-1)])


def pack(keys: F32, values: F32) -> np.ndarray:
    page = np.empty(_core.kv_page_bytes(keys.shape[1], True), np.uint8)
    _core.pack_kv(keys, values, page)
    return page


def heads(head_dim: int, seed: int) -> tuple[F32, F32]:
    """Keys with channels a hundred times the others, as Qwen2.5 has them; a group of zeros."""
    rng = np.random.default_rng(seed)
    keys, values = rng.standard_normal((2, 64, head_dim), np.float32)
    keys[:, ::11] *= 100
    keys[3, :32] = values[4, -16:] = 0
    values[5] *= 1e-38
    return keys, values


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_a_page_is_written_by_the_rule(head_dim: int) -> None:
    keys, values = heads(head_dim, head_dim)
    page = pack(keys, values)
    assert page.tobytes() == slow_page(keys, values).tobytes()
    for isa in ISAS:
        got = np.empty(2 * 64 * head_dim, np.uint16)
        _core.unpack_kv(isa, page, head_dim, got)
        assert got.tobytes() == slow_unpacked(keys, values).tobytes(), isa


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    keys, values = heads(64, 1)
    keys[7, 40] = values[9, 3] = bad
    page = pack(keys, values)
    for isa in ISAS:
        got = np.empty(2 * 64 * 64, np.uint16)
        _core.unpack_kv(isa, page, 64, got)
        k, v = widen(got[: 64 * 64]).reshape(64, 64).T, widen(got[64 * 64 :]).reshape(64, 64)
        assert np.isnan(k[7, 32:]).all() and np.isnan(v[9, :32]).all(), isa
        assert np.isnan(k).sum() == np.isnan(v).sum() == 32, isa


@pytest.mark.parametrize(("head_dim", "rows", "first"), [(64, 1, 2070), (48, 5, 1021), (128, 3, 0)])
def test_attention_reads_what_the_pages_stand_for(head_dim: int, rows: int, first: int) -> None:
    count = -(-(first + rows) // 64)
    pages = [heads(head_dim, i) for i in range(count)]
    int8 = np.stack([pack(*page) for page in pages])
    bf16 = raw(np.stack([slow_unpacked(*page) for page in pages]))
    q = np.random.default_rng(0).standard_normal((rows, 3 * head_dim), np.float32)
    for isa in ISAS:
        got, want = np.empty_like(q), np.empty_like(q)
        _core.attention(isa, q, int8, head_dim, first, got, True)
        _core.attention(isa, q, bf16, head_dim, first, want)
        assert_same_bits(got, want, isa)
    got, want = np.empty_like(q), np.empty_like(q)
    _core.tile_attention("emulated-scalar", q, int8, head_dim, first, got, True)
    _core.tile_attention("emulated-scalar", q, bf16, head_dim, first, want)
    assert_same_bits(got, want, "tiles")


@pytest.mark.parametrize("isa", ISAS)
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
