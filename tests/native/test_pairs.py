"""Prompt rows of BF16 matrices, multiplied in pairs: plain loops against NumPy, the instructions
against the loops, bit for bit. The formula is in csrc/kernels.h.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwell import _core
from qwell.model.batch import Batch
from qwell.native import NativeModel
from qwell.native.pack import pack_floats
from tests.native.bits import assert_same_bits
from tests.native.test_kernels import KINDS, hostile_matrix, hostile_rows, packed, to_bf16
from tests.native.test_program import run, tokens
from tests.native.test_tiles import bf16, flush, fma
from tests.native.tiny import open_native, tiny

F32 = np.float32
PAIRED = ["emulated-pairs", *(["avx512bf16"] if "avx512bf16" in _core.isa_available() else [])]


def linear(isa: str, data: np.ndarray, n: int, x: np.ndarray) -> np.ndarray:
    out = np.full((len(x), -(-n // 32) * 32), 7, F32)
    _core.linear(isa, _core.Format.BF16, data, n, x, out, paired=True)
    return out[:, :n]


def pairs(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x [rows, k] against w [n, k], both bf16 values: the second of a pair goes first."""
    acc = np.zeros((len(x), len(w)), F32)
    for k in range(0, x.shape[1], 2):
        for i in (k + 1, k):
            a, b = x[:, i, None], w[None, :, i]
            exact = a.astype(np.float64) * b + acc  # where it is tiny
            acc = np.where(np.abs(exact) < 2.0**-126 - 2.0**-151, F32(0), fma(a, b, acc))
    return acc


@pytest.mark.parametrize("isa", PAIRED)
@pytest.mark.parametrize("k", [2, 34, 448, 450, 1000])
def test_linear_is_the_formula(k: int, isa: str) -> None:
    """Chunks of 448, whole and not; blocks of eight rows and their rests."""
    rng = np.random.default_rng(k)
    data, w = packed("BF16", 45, k, rng)
    x = rng.standard_normal((27, k), F32)
    x[:, ::7] *= 50
    x[1] = 0
    want = pairs(bf16(x), flush(w))
    for rows in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 27):
        np.testing.assert_array_equal(linear(isa, data, 45, x[-rows:]), want[-rows:])


@pytest.mark.parametrize("isa", PAIRED)
def test_sums_that_vanish(isa: str) -> None:
    """Products and sums below 2^-126 are zero at every step, not only at the end."""
    rng = np.random.default_rng(4)
    w = rng.choice([-1.0, 1.0], (32, 64)) * 2.0 ** rng.integers(-66, -60, (32, 64))
    data = pack_floats("BF16", to_bf16(w).view(np.uint8).reshape(32, 64, 2), 64).reshape(-1)
    x = (rng.choice([-1.0, 1.0], (3, 64)) * 2.0 ** rng.integers(-66, -60, (3, 64))).astype(F32)
    want = pairs(x, w.astype(F32))
    assert 0 < (want == 0).mean() < 1
    np.testing.assert_array_equal(linear(isa, data, 32, x), want)


@pytest.mark.parametrize("isa", PAIRED)
def test_tiny_is_what_is_tiny_before_it_is_rounded_to_a_small_number(isa: str) -> None:
    """2^-126 - 2^-150 is zero though the nearest float32 is 2^-126; 2^-126 - 2^-152 is not."""
    for small, want in ((2.0**-75, 0.0), (2.0**-76, 2.0**-126)):
        w = np.zeros((32, 2))
        w[:, 1], w[:, 0] = 2.0**-63, -small
        data = pack_floats("BF16", to_bf16(w).view(np.uint8).reshape(32, 2, 2), 2).reshape(-1)
        got = linear(isa, data, 32, np.array([[small, 2.0**-63]], F32))
        assert (got == want).all()


@pytest.mark.parametrize("isa", PAIRED)
def test_rounding_of_rows(isa: str) -> None:
    """Through the unit matrix: ties, and numbers beyond and below the normal ones."""
    bits = np.array(
        [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x00800000, 0x007FFFFF, 0x00000001,
         0x80000001, 0x7F7F7FFF, 0x00808000, 0x3EAAAAAB, 0xBF818000],
        np.uint32,
    ).view(F32)  # fmt: skip
    unit = pack_floats("BF16", to_bf16(np.eye(32)).view(np.uint8).reshape(32, 32, 2), 32)
    for value in bits:
        row = np.zeros((1, 32), F32)
        row[0, 9] = value
        got = linear(isa, unit.reshape(-1), 32, row)
        assert got[0, 9] == bf16(row)[0, 9]
        assert (np.delete(got[0], 9) == 0).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_adversaries() -> None:
    """Odd shapes, hostile weights, hostile rows: the instructions give the bits of the loops for
    each row alone, whatever the number of rows."""
    rng = np.random.default_rng(7)
    for rows in range(1, 71):
        n, k, kind = (1, 31, 33, 64)[rows % 4], (2, 30, 34)[rows // 4 % 3], KINDS[rows % 5]
        data, x = hostile_matrix("BF16", kind, n, k, rng), hostile_rows(rows, k, rng)
        want = np.concatenate([linear(PAIRED[0], data, n, x[r : r + 1]) for r in range(rows)])
        for isa in PAIRED:
            assert_same_bits(linear(isa, data, n, x), want, f"{isa} {kind} {rows}x{k}->{n}")


@pytest.mark.parametrize("dtype", ["BF16", "Q4_K"])
def test_a_program(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The instructions give a program the bits of the loops, however a prompt is cut and whatever
    shares its steps."""
    checkpoint, pack = tiny(tmp_path, dtype)
    ids, results = tokens(130), {}
    for isa in PAIRED:
        monkeypatch.setenv("QWELL_FORCE_ISA", isa)
        model = open_native(checkpoint, pack)
        assert model.isa == isa
        assert model.roles_differ == (dtype == "BF16")
        results[isa] = run(model, ids, [100, 1, 29])
        np.testing.assert_array_equal(run(model, ids, [7, 90, 33]), results[isa])
        assert_roles_share_a_step(model, ids, results[isa])
    for isa, got in results.items():
        np.testing.assert_array_equal(got, results[PAIRED[0]], err_msg=isa)


def test_replies_are_not_rounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention of a single token is exact in both formulas: a reply row has scalar's bits, a
    prompt row has not."""
    checkpoint, pack = tiny(tmp_path, "BF16")
    found = {}
    for isa in ("scalar", *PAIRED):
        monkeypatch.setenv("QWELL_FORCE_ISA", isa)
        model = open_native(checkpoint, pack)
        for prompt in (0, 1):
            batch = Batch.make([[5]], prompt_len=[prompt], kv=model.new_kv(1), pages=[[0]])
            found[isa, prompt] = model.step(batch)
    for isa in PAIRED:
        assert_same_bits(found[isa, 0], found["scalar", 0])
        assert not np.array_equal(found[isa, 1], found["scalar", 1])


def assert_roles_share_a_step(model: NativeModel, ids: list[int], prompt: np.ndarray) -> None:
    """A reply of one sequence beside the prompt of another: each has the bits it has alone."""
    pages, kv = [[0, 1, 2], [3, 4, 5]], model.new_kv(6)
    model.step(Batch.make([ids[:70]], kv=kv, pages=pages[:1], logits="none"))
    alone = model.step(Batch.make([ids[70:71]], past=[70], prompt_len=[70], kv=kv, pages=pages[:1]))
    both = model.step(
        Batch.make([ids[70:71], ids], past=[70, 0], prompt_len=[70, 130], kv=kv, pages=pages)
    )
    np.testing.assert_array_equal(both[0], alone[0])
    np.testing.assert_array_equal(both[1], prompt[-1])


def test_the_instruction_itself() -> None:
    """avx512bf16 == emulated-pairs is checked above; say so when it was not."""
    if "avx512bf16" not in _core.isa_available():
        pytest.skip("VDPBF16PS was not run, only its emulation")
