"""Every kernel family: scalar against NumPy formulas, other instruction sets against scalar.

The formulas of csrc/kernels.h fix every rounding, so instruction sets are compared bit for bit.
"""

from __future__ import annotations

import numpy as np
import pytest

from qwell import _core
from qwell.checkpoint.blocks import Codes
from qwell.native.pack import BITS, pack_codes, pack_floats
from tests.native.bits import assert_same_bits, lay_page, raw

F32 = np.float32
ISAS = _core.isa_available()[1:]
GROUP16 = ("Q2_K", "Q3_K", "Q6_K")
MINIMA = ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K")
ZERO = {"Q4_0": 8, "Q5_0": 16, "Q8_0": 128, "Q3_K": 4, "Q6_K": 32}


def random_codes(dtype: str, n: int, k: int, rng: np.random.Generator, extreme: bool) -> Codes:
    """Codes of a whole matrix [n, k]; extreme: every field at its largest magnitude."""
    inputs, _, _ = _core.format_info(getattr(_core.Format, dtype))
    blocks, top = n * k // inputs, 2 ** BITS[dtype] - 1
    q = (
        rng.integers(0, top + 1, (blocks, inputs))
        if not extreme
        else np.full((blocks, inputs), top)
    )
    scale = rng.uniform(0.001, 0.01, blocks).astype(np.float16)
    groups = inputs // (16 if dtype in GROUP16 else 32)
    limit = 127 if dtype == "Q6_K" else 63
    small = None
    if inputs == 256:
        small = rng.integers(-limit if dtype in ("Q3_K", "Q6_K") else 0, limit, (blocks, groups))
        small = small.astype(np.int8)
    minimum = rng.uniform(-0.01, 0.05, blocks).astype(np.float16) if dtype in MINIMA else None
    sub_min = rng.integers(0, 63, (blocks, groups)).astype(np.int8) if minimum is not None else None
    return Codes(
        q.astype(np.uint8),
        ZERO.get(dtype, 0),
        scale,
        small,
        minimum,
        sub_min if small is not None else None,
    )


def packed(dtype: str, n: int, k: int, rng: np.random.Generator, extreme: bool = False):
    """(packed bytes, the float32 matrix they mean)"""
    if dtype in BITS:
        codes = random_codes(dtype, n, k, rng, extreme)
        return pack_codes(codes, n, BITS[dtype]).reshape(-1), codes.floats().reshape(n, k)
    w = rng.standard_normal((n, k), F32)
    if dtype == "BF16":
        raw = (w.view(np.uint32) >> 16).astype(np.uint16)
        w = (raw.astype(np.uint32) << 16).view(F32)
    else:
        raw = w if dtype == "F32" else w.astype(np.float16)
        w = raw.astype(F32)
    return pack_floats(dtype, raw.view(np.uint8).reshape(n, k, -1), k).reshape(-1), w


def linear(isa: str, dtype: str, data, n: int, x):
    out = np.empty((len(x), -(-n // 32) * 32), F32)
    _core.linear(isa, getattr(_core.Format, dtype), data, n, x, out)
    return out[:, :n]


def activations(rows: int, k: int, rng: np.random.Generator):
    """Rows with outliers, an all-zero group and a zero row."""
    x = rng.standard_normal((rows, k), F32)
    x[:, :: k // 3 + 1] *= 50
    x[:, 32:64] = 0
    if rows > 2:
        x[1] = 0
    return x


def quantised(x):
    """(the numbers that integer formats read for float32 x [rows, k], which groups are loud)."""
    groups = x.reshape(len(x), -1, 32)
    amax = np.abs(groups).max(-1, keepdims=True)
    energy = (amax.astype(np.float64) ** 2).sum(1, keepdims=True)
    loud = amax.astype(np.float64) ** 2 * groups.shape[1] > 4 * energy
    top = np.where(loud, 16256, 127)
    inverse = np.where(amax > 0, top.astype(F32) / np.where(amax > 0, amax, 1), 0).astype(F32)
    step = amax.astype(np.float64) / top
    return (np.rint(groups * inverse) * step).reshape(x.shape), loud[..., 0]


@pytest.mark.parametrize("dtype", _core.Format.__members__)
def test_linear_formula(dtype: str) -> None:
    """Scalar equals float64 arithmetic on the dequantised weights and quantised activations."""
    rng = np.random.default_rng(1)
    n, k = 45, 512
    data, w = packed(dtype, n, k, rng)
    x = activations(5, k, rng)
    x[0, 100], x[2, 300:302] = 900, -700
    got = linear("scalar", dtype, data, n, x)
    if dtype in BITS:
        x, loud = quantised(x)
        assert loud[0].tolist() == [g == 3 for g in range(16)]
        assert 3 <= loud.sum() < 20
    want = x.astype(np.float64) @ w.T.astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(w).T.astype(np.float64)
    # k roundings of partial sums no larger than sum |x w|
    assert (np.abs(got - want) <= size * 2.0**-24 * (k / 8 + 8)).all()


@pytest.mark.parametrize("dtype", BITS)
def test_linear_chunks(dtype: str) -> None:
    """More than four rows meet k in chunks (csrc/kernels/linear.h): whole ones and a rest, a loud
    group in every 14. Each row has the bits that scalar gives it alone."""
    rng = np.random.default_rng(11)
    for k in (512, 1792, 2048) if dtype.endswith("_K") else (448, 480, 896, 928, 1856):
        data, _ = packed(dtype, 40, k, rng)
        x = rng.standard_normal((17, k), F32)
        x[:, ::448], x[3] = 50, 0
        assert quantised(x)[1][0].sum() == -(-k // 448)
        want = np.concatenate([linear("scalar", dtype, data, 40, x[r : r + 1]) for r in range(17)])
        for isa in ("scalar", *ISAS):
            for rows in (5, 6, 7, 8, 9, 17):
                got = linear(isa, dtype, data, 40, x[-rows:])
                assert_same_bits(got, want[-rows:], f"{isa}, k {k}, {rows} rows")


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("dtype", _core.Format.__members__)
def test_linear_bits(dtype: str, rows: int, extreme: bool) -> None:
    """All instruction sets give the bits of scalar, for every row count, and a row's bits do not
    depend on its neighbours."""
    rng = np.random.default_rng(rows)
    n, k = 40, 512
    data, _ = packed(dtype, n, k, rng, extreme)
    x = activations(rows, k, rng)
    if extreme:
        x = np.where(rng.random(x.shape) < 0.5, F32(-3), F32(3))
    want = linear("scalar", dtype, data, n, x)
    for isa in ISAS:
        np.testing.assert_array_equal(linear(isa, dtype, data, n, x), want, err_msg=isa)
    alone = np.concatenate([linear("scalar", dtype, data, n, x[r : r + 1]) for r in range(rows)])
    np.testing.assert_array_equal(alone, want)


def test_overflow_edge() -> None:
    """The widest sum fits int32: 32 inputs of 8-bit weights at 8-bit activations."""
    codes = Codes(np.zeros((32, 32), np.uint8), 128, np.ones(32, np.float16))
    data = pack_codes(codes, 32, 8).reshape(-1)
    x = np.full((1, 32), 1.0, F32)
    for isa in _core.isa_available():
        np.testing.assert_allclose(linear(isa, "Q8_0", data, 32, x), -128 * 32, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    rng = np.random.default_rng(3)
    data, _ = packed("Q5_0", 32, 64, rng)
    x = rng.standard_normal((6, 64), F32)
    x[2, 40] = bad
    for isa in _core.isa_available():
        got = linear(isa, "Q5_0", data, 32, x)
        assert np.isnan(got[2]).all()
        assert np.isfinite(np.delete(got, 2, axis=0)).all()
        q = rng.standard_normal((2, 128), F32)
        q[1, 70] = bad
        out, memory = np.zeros_like(q), np.full((1, 2, 64 * 64), 0x3F80, np.uint16)
        _core.attention(isa, q, raw(memory), 64, 5, out)
        assert np.isnan(out[1, 64:]).all()
        assert np.isfinite(out[0]).all()
        assert np.isfinite(out[1, :64]).all()


def row_op(isa: str, op: str, a, b, eps: float = 0.0, pad: int = 0):
    y = np.full(len(a) + pad, 7, F32)
    _core.row_op(isa, op, np.ascontiguousarray(a), np.ascontiguousarray(b), len(a), eps, y)
    return y


@pytest.mark.parametrize("n", [16, 64, 130, 896])
@pytest.mark.parametrize("op", ["rms_norm", "silu_mul", "add", "rope"])
def test_row_ops(op: str, n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = (rng.standard_normal(n).astype(F32) * F32(8) for _ in range(2))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    half = n // 2
    match op:
        case "rms_norm":
            want = wide_a / np.sqrt(np.mean(wide_a**2) + 1e-6) * wide_b
        case "silu_mul":
            want = wide_a / (1 + np.exp(-wide_a)) * wide_b
        case "add":
            want = wide_a + wide_b
        case _:
            (x, y), (c, s) = np.split(wide_a, 2), np.split(wide_b, 2)
            want = np.concatenate([x * c - y * s, y * c + x * s])
    assert half
    got = row_op("scalar", op, a, b, 1e-6)
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-5)
    for isa in ISAS:
        np.testing.assert_array_equal(row_op(isa, op, a, b, 1e-6), got, err_msg=isa)


def test_norm_pads_with_zeros() -> None:
    y = row_op("scalar", "rms_norm", np.ones(40, F32), np.ones(40, F32), 1e-6, pad=24)
    assert (y[40:] == 0).all()
    assert (y[:40] != 0).all()


def test_silu_far_out() -> None:
    """Neither end overflows: silu(-1000) is 0, silu(1000) is 1000."""
    gate = np.array(
        [-1000, -88, -87, -50, -1e-30, 0, 1e-30, 50, 88, 1000, 1e30, -1e5] + [0] * 4, F32
    )
    for isa in _core.isa_available():
        got = row_op(isa, "silu_mul", gate, np.ones(16, F32))
        want = [0, 0, 0, 0, 0, 0, 0, 50, 88, 1000, 1e30, 0]
        np.testing.assert_allclose(got[:12], want, atol=1e-18, rtol=1e-6)


def to_bf16(x):
    bits = x.astype(F32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


@pytest.mark.parametrize(
    ("head_dim", "group", "rows", "first"),
    [
        (64, 7, 1, 0),
        (64, 7, 3, 62),
        (128, 6, 1, 200),
        (16, 1, 5, 0),
        (48, 8, 2, 127),
        (128, 5, 17, 60),
    ],
)
def test_attention(head_dim: int, group: int, rows: int, first: int) -> None:
    rng = np.random.default_rng(head_dim + rows)
    total = first + rows
    pages = -(-total // 64)
    keys, values = (to_bf16(rng.standard_normal((pages * 64, head_dim)) * 2) for _ in range(2))
    # What lies behind the last key must not be read into any result: NaN shows it.
    keys[total:] = values[total:] = 0x7FC0
    pairs = [lay_page(keys[p : p + 64], values[p : p + 64]) for p in range(0, pages * 64, 64)]
    memory = np.stack(pairs)
    q = rng.standard_normal((rows, group * head_dim), F32)

    def run(isa: str):
        out = np.empty_like(q)
        _core.attention(isa, q, raw(memory), head_dim, first, out)
        return out

    k, v = ((a.astype(np.uint32) << 16).view(F32).astype(np.float64) for a in (keys, values))
    got = run("scalar")
    for r in range(rows):
        seen = first + r + 1
        for h in range(group):
            part = slice(h * head_dim, (h + 1) * head_dim)
            s = k[:seen] @ q[r, part].astype(np.float64) / np.sqrt(head_dim)
            p = np.exp(s - s.max())
            np.testing.assert_allclose(got[r, part], p @ v[:seen] / p.sum(), rtol=2e-5, atol=1e-5)
    for isa in ISAS:
        np.testing.assert_array_equal(run(isa), got, err_msg=isa)


def test_unknown_isa_names_the_choices() -> None:
    with pytest.raises(ValueError, match="choose one of scalar"):
        linear("avx9000", "F32", np.zeros(4096, np.uint8), 32, np.zeros((1, 32), F32))


# --- adversaries ----------------------------------------------------------------------------

TABLES = _core.isa_available()
KINDS = ("all largest", "all zero", "by turns", "huge scales", "tiny scales")


def hostile_codes(dtype: str, kind: str, n: int, k: int, rng: np.random.Generator) -> Codes:
    """Codes at the ends of their ranges; scales that overflow, are denormal, or of either sign."""
    codes, top = random_codes(dtype, n, k, rng, extreme=False), 2 ** BITS[dtype] - 1
    q, scale = codes.q, codes.scale
    match kind:
        case "all largest":
            q = np.full_like(q, top)
        case "all zero":
            q = np.zeros_like(q)
        case "by turns":
            q = np.where(rng.random(q.shape) < 0.5, 0, top).astype(np.uint8)
        case "huge scales":
            scale = np.full_like(scale, 65504) * rng.choice([-1, 1], scale.shape)
        case _:
            scale = (rng.choice([-1, 0, 1, 3], scale.shape) * 2.0**-24).astype(np.float16)
            scale[::5] = -0.0
    limits = (-128, 127) if codes.min is None else (0, 63)
    ends = [
        part if part is None else rng.choice(limits, part.shape).astype(np.int8)
        for part in (codes.sub_scale, codes.sub_min)
    ]
    minimum = codes.min if codes.min is None else rng.choice([-1, 1], scale.shape) * scale
    return Codes(q, codes.zero, scale.astype(np.float16), ends[0], minimum, ends[1])


def hostile_matrix(dtype: str, kind: str, n: int, k: int, rng: np.random.Generator):
    if dtype in BITS:
        codes = hostile_codes(dtype, kind, n, k, rng)
        return pack_codes(codes, n, BITS[dtype]).reshape(-1)
    width = 4 if dtype == "F32" else 2
    if kind in ("huge scales", "tiny scales"):
        large = {"F32": 3e38, "F16": 65504, "BF16": 3e38}[dtype]
        small = {"F32": 1e-45, "F16": 6e-8, "BF16": 1e-40}[dtype]
        w = rng.choice([-1, -0.0, 1], (n, k)).astype(F32) * F32(large if "huge" in kind else small)
        raw = to_bf16(w) if dtype == "BF16" else w.astype(F32 if dtype == "F32" else np.float16)
        raw = raw.view(np.uint8)
    else:  # any bits at all: infinities, NaN and denormals among them
        fill = {"all largest": 0xFF, "all zero": 0x80}.get(kind)
        raw = (
            rng.integers(0, 256, (n, k * width)) if fill is None else np.full((n, k * width), fill)
        )
        raw = raw.astype(np.uint8)
    return pack_floats(dtype, raw.reshape(n, k, width), k).reshape(-1)


def hostile_rows(rows: int, k: int, rng: np.random.Generator):
    """A kind of trouble a row: a giant in every group, denormals, -0, the borders of the smallest
    scale, overflow, and what is not finite; the rest are ordinary."""
    x = rng.standard_normal((rows, k)).astype(F32)
    giants = np.arange(0, k, 32) + rng.integers(0, min(k, 32), -(-k // 32))
    giants = giants[giants < k]
    troubles = (
        lambda row: row.__setitem__(giants, F32(1e30)),
        lambda row: np.copyto(row, F32(1e-42) * np.sign(row)),
        lambda row: np.copyto(row, F32(-0.0)),
        lambda row: np.copyto(row, np.sign(row) * rng.choice([1e-30, 1.0000001e-30, 9e-31], k)),
        lambda row: np.copyto(row, np.sign(row) * F32(3.4e38)),
        lambda row: row.__setitem__(giants[-1:], F32(np.inf)),
        lambda row: row.__setitem__(giants[:1], F32(np.nan)),
        lambda row: np.copyto(row, np.rint(row * 2) + F32(0.5)),
        lambda row: row.__setitem__(giants[: rng.integers(1, 4)], F32(1234)),
        lambda row: row.__setitem__(giants[-1:], F32(1e25)),
    )
    for row in x:
        at = rng.integers(0, 2 * len(troubles))
        if at < len(troubles):
            troubles[at](row)
    return x


@pytest.mark.parametrize("dtype", _core.Format.__members__)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_linear_adversaries(dtype: str) -> None:
    """Odd shapes, hostile weights, hostile rows: every table gives the bits of scalar for each row
    alone, whatever the number of rows."""
    rng = np.random.default_rng(7)
    block = _core.format_info(getattr(_core.Format, dtype))[0]
    sizes = (256, 512, 768) if block == 256 else (32, 64, 96, 288) if block == 32 else (2, 30, 34)
    for rows in range(1, 71):
        n, k, kind = (1, 31, 33, 64)[rows % 4], sizes[rows // 4 % len(sizes)], KINDS[rows % 5]
        data, x = hostile_matrix(dtype, kind, n, k, rng), hostile_rows(rows, k, rng)
        want = [linear("scalar", dtype, data, n, x[r : r + 1]) for r in range(rows)]
        for isa in TABLES:
            got = linear(isa, dtype, data, n, x)
            assert_same_bits(got, np.concatenate(want), f"{isa} {kind} {rows}x{k}->{n}")


def test_every_hostile_row_is_told_from_the_others() -> None:
    """Rows that are not finite make their own results so, and no others."""
    rng = np.random.default_rng(8)
    x = np.concatenate([hostile_rows(70, 256, rng) for _ in range(2)])
    finite = np.isfinite(x).all(axis=1)
    assert 5 < (~finite).sum() < 60
    for dtype in ("Q4_K", "Q5_0", "BF16"):
        data, _ = packed(dtype, 40, 256, rng)
        small = np.abs(np.where(np.isfinite(x), x, 0)).max(axis=1) < 1e37
        for isa in TABLES:
            got = linear(isa, dtype, data, 40, x)
            assert np.isfinite(got[finite & small]).all()
            assert not np.isfinite(got[~finite]).any()


@pytest.mark.parametrize("op", ["rms_norm", "silu_mul", "add", "rope"])
@pytest.mark.parametrize("n", [2, 16, 18, 34, 96, 130, 898])
def test_row_op_adversaries(op: str, n: int) -> None:
    rng = np.random.default_rng(n)
    for a in hostile_rows(40, n, rng):
        b = hostile_rows(1, n, rng)[0]
        with np.errstate(all="ignore"):
            want = row_op("scalar", op, a, b, 1e-6)
        for isa in TABLES:
            assert_same_bits(row_op(isa, op, a, b, 1e-6), want, f"{isa} {op}")


@pytest.mark.parametrize("first", [0, 61, 64, 1020, 2046])
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 7, 9])
def test_attention_adversaries(group: int, first: int) -> None:
    """Scores that overflow, cancel, vanish; -0 and denormals in the cache; long contexts. Each row
    has the bits scalar gives it alone."""
    rng, head_dim, rows = np.random.default_rng(first + group), (16, 48, 64)[group % 3], 6
    pages = -(-(first + rows) // 64)
    memory = to_bf16(rng.standard_normal((pages, 2, head_dim * 64)))
    odd = np.array([0x8000, 0x0001, 0x8001, 0x7F7F, 0xFF7F, 0x0080], np.uint16)  # -0 .. largest
    few = rng.random(memory.shape) < 0.01
    memory[few] = rng.choice(odd, few.sum())
    q = hostile_rows(rows, group * head_dim, rng)

    def run(isa: str, lo: int, hi: int):
        out = np.empty_like(q[lo:hi])
        _core.attention(isa, q[lo:hi], raw(memory), head_dim, first + lo, out)
        return out

    want = np.concatenate([run("scalar", r, r + 1) for r in range(rows)])
    for isa in TABLES:
        assert_same_bits(run(isa, 0, rows), want, isa)
        assert_same_bits(run(isa, 2, 5), want[2:5], isa)


def test_a_place_beyond_all_numbers_is_refused() -> None:
    """Products and sums of it would be small again."""
    half, floats = np.zeros((1, 2 * 64 * 64 * 2), np.uint8), np.zeros((1, 64), np.float32)
    for first in (64, 2**31 - 1):
        with pytest.raises(ValueError, match="fewer pages"):
            _core.attention("scalar", floats, half, 64, first, floats.copy())
    with pytest.raises(ValueError, match="q must be"):
        _core.attention("scalar", floats[:, :0], half, 64, 0, floats[:, :0].copy())
    panel = np.zeros(576, np.uint8)
    for column in (-1, 32, 2**62):
        with pytest.raises(ValueError, match="column"):
            _core.gather_column(_core.Format.Q4_0, panel, 32, column, np.zeros(32, np.float32))
