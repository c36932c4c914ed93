"""Five and more reply rows over tiles of bytes: the integer formula, bit for bit as scalar has it.

"emulated-scalar" and "emulated" run the schedule of AMX with its instructions in plain loops.
"""

from __future__ import annotations

import numpy as np
import pytest

from qwell import _core
from qwell.checkpoint.blocks import Codes
from qwell.native.pack import BITS, pack_codes
from tests.native.bits import assert_same_bits
from tests.native.test_kernels import activations, linear, packed
from tests.native.test_tiles import TILED

F32 = np.float32
ROWS = (5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 65, 70)


def ks(dtype: str) -> tuple[int, ...]:
    """Odd and even counts of groups of 32; blocks of 256 know no odd ones."""
    return (32, 64, 96, 352) if _core.format_info(getattr(_core.Format, dtype))[0] == 32 else (512,)


@pytest.mark.parametrize("dtype", BITS)
def test_every_row_count(dtype: str) -> None:
    """Each row has the bits scalar gives it among seventy, whoever its neighbours are."""
    rng = np.random.default_rng(1)
    for k in ks(dtype):
        data, _ = packed(dtype, 40, k, rng)
        x = activations(70, k, rng)
        want = linear("scalar", dtype, data, 40, x)
        for isa in TILED[1:]:
            for rows in ROWS if k == ks(dtype)[-1] else ROWS[:7]:
                got = linear(isa, dtype, data, 40, x[-rows:])
                assert_same_bits(got, want[-rows:], f"{isa}, k {k}, {rows} rows")


@pytest.mark.parametrize("dtype", BITS)
def test_largest_numbers(dtype: str) -> None:
    """Weights at their top, activations at theirs in either sign: no sum leaves its width."""
    rng = np.random.default_rng(2)
    data, _ = packed(dtype, 40, 512, rng, extreme=True)
    x = np.where(rng.random((20, 512)) < 0.5, F32(-3), F32(3))
    x[3], x[4] = 3, -3
    want = linear("scalar", dtype, data, 40, x)
    for isa in TILED:
        assert_same_bits(linear(isa, dtype, data, 40, x), want, isa)


def test_the_least_weight() -> None:
    """0 of 8 bits means -128, which no other number has the magnitude of."""
    data = pack_codes(Codes(np.zeros((32, 32), np.uint8), 128, np.ones(32, np.float16)), 32, 8)
    x = np.full((6, 32), 1.0, F32)
    for isa in TILED:
        got = linear(isa, "Q8_0", data.reshape(-1), 32, x)
        np.testing.assert_allclose(got, -128 * 32, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(bad: float) -> None:
    rng = np.random.default_rng(3)
    data, _ = packed("Q5_0", 32, 96, rng)
    x = rng.standard_normal((20, 96), F32)
    x[17, 70] = bad
    for isa in TILED:
        got = linear(isa, "Q5_0", data, 32, x)
        assert np.isnan(got[17]).all()
        assert np.isfinite(np.delete(got, 17, axis=0)).all()
