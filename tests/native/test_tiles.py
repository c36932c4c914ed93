"""The tiled kernels: emulated tiles against NumPy, every twin against every other, bit for bit.

The formula is in csrc/kernels.h. "emulated-scalar" is plain loops, "emulated" the code that AMX
runs but for its six instructions, "amx" those instructions where there are some. Attention over
pairs ("emulated-pairs", "avx512bf16") is the same but for its dot; test_pairs.py has the rest.
"""

from __future__ import annotations

import numpy as np
import pytest

from qwell import _core
from qwell.checkpoint.blocks import Codes
from qwell.native.pack import BITS, pack_codes, pack_floats
from tests.native.bits import lay_page, raw
from tests.native.test_kernels import packed, random_codes, to_bf16

F32 = np.float32
TILED = ["emulated-scalar", "emulated", *(["amx"] if _core.amx_status() == "ok" else [])]
FAMILIES = {
    "tiles": TILED,
    "pairs": ["emulated-pairs", *(["avx512bf16"] if "avx512bf16" in _core.isa_available() else [])],
}
"""Of tiled attention: plain loops first, then what must give their bits."""
FORMATS = [name for name in _core.Format.__members__ if name not in ("F32", "F16")]
TINY = F32(2.0**-126)


def flush(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < TINY, F32(0), x)


def bf16(x: np.ndarray) -> np.ndarray:
    """Rounded to nearest even, kept as float32."""
    up = (to_bf16(np.where(np.isfinite(x), flush(x), 0)).astype(np.uint32) << 16).view(F32)
    return np.where(np.isfinite(x), up, x)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c in one rounding; a * b must be exact in float64."""
    with np.errstate(invalid="ignore"):
        product, c = a.astype(np.float64) * b, c.astype(np.float64)
        total = product + c
        back = total - product
        error = (product - (total - back)) + (c - back)
    # An inexact float64 sum is made odd, so that rounding it again to float32 errs no second time.
    nudge = np.isfinite(error) & (error != 0) & (total.view(np.int64) % 2 == 0)
    total = np.where(nudge, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)
    return total.astype(F32)


def tile_dots(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x [rows, k] against w [n, k], both bf16 values: one dot for each 32 of k."""
    pad = [(0, 0), (0, -x.shape[1] % 32)]
    x, w = np.pad(x, pad), np.pad(w, pad)
    acc = np.zeros((len(x), len(w)), F32)
    for step in range(0, x.shape[1], 32):
        chains = [np.zeros_like(acc), np.zeros_like(acc)]
        for i in range(32):
            k = step + i
            chains[i % 2] = flush(fma(x[:, k, None], w[None, :, k], chains[i % 2]))
        acc = flush(acc + flush(chains[0] + chains[1]))
    return acc


def weights(codes: Codes, n: int) -> np.ndarray:
    """What the tiled formula makes of packed codes, before it is rounded to bf16."""
    blocks, inputs = codes.q.shape
    scale = codes.scale.astype(F32)[:, None]
    offset = np.zeros_like(scale) if codes.min is None else codes.min.astype(F32)[:, None]
    if codes.sub_scale is not None:
        scale = scale * codes.sub_scale
        offset = offset * (codes.sub_min if codes.sub_min is not None else 1)
    groups = scale.shape[1]
    scale, offset = (np.repeat(np.broadcast_to(a, (blocks, groups)), inputs // groups, 1)
                     for a in (scale, offset))  # fmt: skip
    if codes.min is None:
        offset = scale * F32(codes.zero)
    return fma(codes.q.astype(F32), scale.astype(F32), -offset.astype(F32)).reshape(n, -1)


def matrix(dtype: str, n: int, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(packed bytes, the bf16 values the tiles see)"""
    if dtype not in BITS:
        data, w = packed(dtype, n, k, rng)
        return data, flush(w)
    codes = random_codes(dtype, n, k, rng, extreme=False)
    return pack_codes(codes, n, BITS[dtype]).reshape(-1), bf16(weights(codes, n))


def linear(
    isa: str, dtype: str, data: np.ndarray, n: int, x: np.ndarray, group: int = 1
) -> np.ndarray:
    out = np.full((len(x), -(-n // 32) * 32), 7, F32)
    _core.tile_linear(isa, getattr(_core.Format, dtype), data, n, x, out, group)
    return out[:, :n]


def odd_k(dtype: str) -> int:
    """More than one chunk of at most 448, of unequal length where that may be."""
    inputs = _core.format_info(getattr(_core.Format, dtype))[0]
    return {2: 490, 32: 480, 256: 512}[inputs]


@pytest.mark.parametrize("isa", TILED)
@pytest.mark.parametrize("dtype", FORMATS)
def test_linear_is_the_formula(dtype: str, isa: str) -> None:
    rng = np.random.default_rng(1)
    n, k = 45, odd_k(dtype)
    data, w = matrix(dtype, n, k, rng)
    x = rng.standard_normal((5, k), F32)
    x[:, ::7] *= 50
    x[1] = 0
    np.testing.assert_array_equal(linear(isa, dtype, data, n, x), tile_dots(bf16(x), w))


@pytest.mark.parametrize("dtype", ["Q5_0", "Q6_K", "BF16"])
def test_neighbours_do_not_matter(dtype: str) -> None:
    """Every number of rows gives each row the bits it has among seventy."""
    rng = np.random.default_rng(2)
    n, k = 100, odd_k(dtype)  # four panels: one pass over all of them, or several
    data, w = matrix(dtype, n, k, rng)
    x = rng.standard_normal((70, k), F32)
    want = tile_dots(bf16(x), w)
    for rows in (1, 2, 15, 16, 17, 31, 32, 33, 48, 49, 64, 65, 70):
        for isa in TILED[1:]:
            for group in (1, 3, 4):
                got = linear(isa, dtype, data, n, x[-rows:], group)
                np.testing.assert_array_equal(got, want[-rows:])


@pytest.mark.parametrize("isa", TILED)
def test_rounding_to_bf16(isa: str) -> None:
    """Through the unit matrix: ties, numbers beyond and below the normal ones, in x and in w."""
    bits = np.array(
        [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x00800000, 0x007FFFFF, 0x00000001,
         0x80000001, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F7FFF, 0x00808000, 0x3EAAAAAB, 0xBF818000],
        np.uint32,
    ).view(F32)  # fmt: skip
    x = np.zeros((len(bits), 32), F32)
    x[range(len(bits)), range(len(bits))] = bits
    unit = pack_floats("BF16", to_bf16(np.eye(32)).view(np.uint8).reshape(32, 32, 2), 32).reshape(
        -1
    )
    # Tiles know 0 * inf: a row that overflows to inf is NaN but for its own column.
    got = np.diagonal(linear(isa, "BF16", unit, 32, x))[: len(bits)]
    np.testing.assert_array_equal(got, tile_dots(bf16(x), np.eye(32, dtype=F32)).diagonal()[:14])
    assert np.isinf(got[8:10]).all()
    np.testing.assert_array_equal(got[[5, 6, 7]], 0)
    small = np.full((32, 32), 2.0**-127)  # in w it counts as zero as well
    data = pack_floats("BF16", to_bf16(small).view(np.uint8).reshape(32, 32, 2), 32).reshape(-1)
    assert (linear(isa, "BF16", data, 32, np.full((1, 32), 2.0**60, F32)) == 0).all()


@pytest.mark.parametrize("isa", TILED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(bad: float, isa: str) -> None:
    rng = np.random.default_rng(3)
    data, _ = matrix("Q5_0", 32, 64, rng)
    x = rng.standard_normal((20, 64), F32)
    x[2, 40] = bad
    got = linear(isa, "Q5_0", data, 32, x)
    assert not np.isfinite(got[2]).any()
    assert np.isfinite(np.delete(got, 2, axis=0)).all()


@pytest.mark.parametrize("isa", TILED)
def test_sums_that_vanish(isa: str) -> None:
    """Products and sums below 2^-126 are zero at every step, not only at the end."""
    rng = np.random.default_rng(4)
    scale = 2.0 ** rng.integers(-66, -60, (32, 64))
    w = rng.choice([-1.0, 1.0], (32, 64)) * scale
    data = pack_floats("BF16", to_bf16(w).view(np.uint8).reshape(32, 64, 2), 64).reshape(-1)
    x = (rng.choice([-1.0, 1.0], (3, 64)) * 2.0 ** rng.integers(-66, -60, (3, 64))).astype(F32)
    want = tile_dots(x, w.astype(F32))
    assert 0 < (want == 0).mean() < 1
    np.testing.assert_array_equal(linear(isa, "BF16", data, 32, x), want)


def pages_of(keys: np.ndarray, values: np.ndarray, total: int) -> np.ndarray:
    """bf16 [pages * 64, H] twice, as the cache lays them; NaN behind `total` keys."""
    size = len(keys)
    keys, values = keys.copy(), values.copy()
    keys[total:] = values[total:] = 0x7FC0
    return np.stack([lay_page(keys[p : p + 64], values[p : p + 64]) for p in range(0, size, 64)])


def attend(isa: str, q: np.ndarray, memory: np.ndarray, head_dim: int, first: int) -> np.ndarray:
    out = np.empty_like(q)
    _core.tile_attention(isa, q, raw(memory), head_dim, first, out)
    return out


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize(
    ("head_dim", "group", "rows", "first"),
    [
        (64, 7, 1, 0),
        (64, 7, 3, 62),
        (128, 6, 1, 200),
        (16, 1, 5, 0),
        (48, 8, 2, 127),
        (128, 5, 40, 60),
        (64, 2, 100, 31),
    ],
)
def test_attention(head_dim: int, group: int, rows: int, first: int, family: list[str]) -> None:
    rng = np.random.default_rng(head_dim + rows)
    size = -(-(first + rows) // 64) * 64
    keys, values = (to_bf16(rng.standard_normal((size, head_dim)) * 2) for _ in range(2))
    memory = pages_of(keys, values, first + rows)
    q = rng.standard_normal((rows, group * head_dim), F32)
    got = attend(family[0], q, memory, head_dim, first)
    k, v = ((a.astype(np.uint32) << 16).view(F32).astype(np.float64) for a in (keys, values))
    unit = F32(np.log2(np.e)) / np.sqrt(F32(head_dim))
    for r in range(rows):
        seen = first + r + 1
        for h in range(group):
            part = slice(h * head_dim, (h + 1) * head_dim)
            s = k[:seen] @ bf16(q[r, part] * unit).astype(np.float64)
            p = np.exp2(s - s.max())
            bound = p @ np.abs(v[:seen]) / p.sum() * 2.0**-8  # p in bf16, and a little
            assert (np.abs(got[r, part] - p @ v[:seen] / p.sum()) <= bound).all()
    for isa in family[1:]:
        np.testing.assert_array_equal(attend(isa, q, memory, head_dim, first), got, err_msg=isa)
    alone = [attend(family[-1], q[r : r + 1], memory, head_dim, first + r) for r in range(rows)]
    np.testing.assert_array_equal(np.concatenate(alone), got)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("head_dim", range(16, 257, 16))
def test_every_head_dim_and_group(head_dim: int, family: list[str]) -> None:
    """Plain loops, lanes and instructions agree at the borders of tiles, pages and parts."""
    rng = np.random.default_rng(head_dim)
    for first, rows in ((0, 1), (63, 3), (1020, 7)):
        group = int(rng.integers(1, 9))
        keys, values = (to_bf16(rng.standard_normal((1088, head_dim)) * 2) for _ in range(2))
        memory = pages_of(keys, values, first + rows)
        q = rng.standard_normal((rows, group * head_dim), F32)
        want = attend(family[0], q, memory, head_dim, first)
        assert np.isfinite(want).all()
        for isa in family[1:]:
            np.testing.assert_array_equal(attend(isa, q, memory, head_dim, first), want)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("group", range(1, 9))
def test_a_row_is_the_same_alone(group: int, family: list[str]) -> None:
    """Whatever window it shares, across pages and parts; NaN in the slots behind."""
    rng = np.random.default_rng(group)
    first, rows, head_dim = 1024 - 70, 140, 32
    keys, values = (to_bf16(rng.standard_normal((1152, head_dim)) * 2) for _ in range(2))
    q = rng.standard_normal((rows, group * head_dim), F32)
    for isa in family[1:] or family:
        want = attend(isa, q, pages_of(keys, values, first + rows), head_dim, first)
        for r in (0, 1, 5, 69, 70, 71, 133, 139):
            memory = pages_of(keys, values, first + r + 1)
            alone = attend(isa, q[r : r + 1], memory, head_dim, first + r)
            np.testing.assert_array_equal(alone[0], want[r])


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("scale", [1e-30, 30.0, 1e4, 1e12])
def test_scores_of_every_size(scale: float, family: list[str]) -> None:
    """Weights that vanish on the way, tops that rise late: finite, and equal by every path."""
    rng = np.random.default_rng(7)
    keys, values = (to_bf16(rng.standard_normal((1152, 64))) for _ in range(2))
    keys[1100:] = to_bf16(rng.standard_normal((52, 64)) * 9)
    q = (rng.standard_normal((50, 192)) * scale).astype(F32)
    memory = pages_of(keys, values, 1150)
    want = attend(family[0], q, memory, 64, 1100)
    assert np.isfinite(want).all()
    for isa in family[1:]:
        np.testing.assert_array_equal(attend(isa, q, memory, 64, 1100), want)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite(bad: float) -> None:
    rng = np.random.default_rng(8)
    keys, values = (to_bf16(rng.standard_normal((64, 64))) for _ in range(2))
    q = rng.standard_normal((20, 128), F32)
    q[3, 70] = bad
    for isa in (*TILED, *FAMILIES["pairs"]):
        got = attend(isa, q, pages_of(keys, values, 60), 64, 40)
        assert np.isnan(got[3, 64:]).all()
        got[3, 64:] = 0
        assert np.isfinite(got).all()


def test_a_key_that_is_not_finite() -> None:
    """Seen or not: the rows before it do not know of it."""
    rng = np.random.default_rng(9)
    keys, values = (to_bf16(rng.standard_normal((64, 64))) for _ in range(2))
    keys[50] = 0x7FC0
    q = rng.standard_normal((20, 128), F32)
    for isa in (*TILED, *FAMILIES["pairs"]):
        got = attend(isa, q, pages_of(keys, values, 60), 64, 40)
        assert np.isfinite(got[:10]).all()
        assert np.isnan(got[10:]).all()


@pytest.mark.parametrize("bad", [0x7FC0, 0x7F80])
def test_a_row_does_not_meet_later_values(bad: int) -> None:
    """NaN and infinity among the values reach the rows that see them, and no other."""
    rng = np.random.default_rng(5)
    keys, values = (to_bf16(rng.standard_normal((64, 64))) for _ in range(2))
    values[40] = bad
    q = rng.standard_normal((20, 128), F32)
    for isa in (*TILED, *FAMILIES["pairs"]):
        got = attend(isa, q, pages_of(keys, values, 52), 64, 32)
        assert np.isfinite(got[:8]).all()
        assert not np.isfinite(got[8:]).any()


def test_what_has_no_tiles_is_refused() -> None:
    out, x = np.zeros((32, 32), F32), np.zeros((1, 32), F32)
    with pytest.raises(ValueError, match="no tiles"):
        _core.tile_linear("scalar", _core.Format.BF16, np.zeros(2048, np.uint8), 32, x, out)
    with pytest.raises(ValueError, match="no tiled form"):
        _core.tile_linear("emulated", _core.Format.F32, np.zeros(4096, np.uint8), 32, x, out)


def test_amx_is_offered_only_when_healthy() -> None:
    assert ("amx" in _core.isa_available()) == (_core.amx_status() == "ok")
    assert not {"emulated", "emulated-scalar", "emulated-pairs"} & set(_core.isa_available())


def test_the_instructions_themselves() -> None:
    """amx == emulated is checked above, for every format; say so when it was not."""
    if "amx" not in TILED:
        pytest.skip(f"AMX was not run, only its emulation: {_core.amx_status()}")
