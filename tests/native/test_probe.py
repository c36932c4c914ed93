"""The probe: figures that can be true, that agree with each other, and faults that are told."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from qwell import _core
from qwell.errors import MemoryBudgetError, UsageError
from qwell.native import probe
from qwell.native.probe import METHODS, Ceilings, Probe, measure

SMALL = 16 << 20
LARGE = 512 << 20


@pytest.fixture(scope="module")
def found() -> Ceilings:
    return Probe(2, buffer_bytes=SMALL).measure()


def test_relations(found: Ceilings) -> None:
    assert found.threads == 2 and found.isa in _core.isa_available()
    assert 0.2 < found.clock_ghz < 10
    assert found.read_gb_per_s_best_pass >= found.read_gb_per_s >= 0.8 * 0.5
    assert found.read_gb_per_s_one_thread_best_pass >= found.read_gb_per_s_one_thread > 0.4
    assert found.read_method in map(str, METHODS)
    # One thread does at most two 64-byte multiply-adds a cycle; both are within that.
    assert 0.1 < found.f32_gflops < 2 * 2 * 2 * 16 * 10
    assert found.seconds < 60


def test_two_threads_read_no_slower_than_one() -> None:
    """On one core, or beside a busy neighbour, they are no faster either. The buffer fits into no
    cache: where cores share none, one of them would find it all in its own."""
    ratios: list[float] = []
    while len(ratios) < 6 and max(ratios, default=0) < 0.8:
        found = Probe(2, buffer_bytes=LARGE).measure()
        ratios.append(found.read_gb_per_s_best_pass / found.read_gb_per_s_one_thread_best_pass)
    assert max(ratios) >= 0.8


def test_peaks_follow_the_instruction_set() -> None:
    """A wider one is not slower, and what is not there is nothing."""
    peaks = {}
    for isa in _core.isa_available():
        core = _core.Probe(1, 2 << 20, isa)
        kinds = ("f32", "int8", "bf16")
        peaks[isa] = {kind: max(core.peak(kind, 0.01) for _ in range(5)) for kind in kinds}
    assert peaks["scalar"]["f32"] > 0 and peaks["scalar"]["int8"] == 0
    if "avx2" in peaks:
        assert peaks["avx2"]["f32"] > peaks["scalar"]["f32"] and peaks["avx2"]["int8"] > 0
    if "avxvnni" in peaks:
        assert peaks["avxvnni"]["int8"] > 0
    if "dotprod" in peaks:
        assert peaks["neon"]["f32"] > peaks["scalar"]["f32"] and peaks["dotprod"]["int8"] > 0
    if "avx512" in peaks:
        assert peaks["avx512"]["int8"] > peaks["avx2"]["int8"]
        assert peaks["avx512"]["bf16"] == 0
    if "avx512bf16" in peaks:
        assert peaks["avx512bf16"]["bf16"] > 0


def test_amx_is_measured_where_it_is() -> None:
    core = _core.Probe(1, 2 << 20, "avx512")
    for kind in ("amx_int8", "amx_bf16"):
        if not _core.cpu_features()[kind]:
            assert core.peak(kind, 0.01) == 0


def test_every_way_to_read_reads_every_page() -> None:
    """The core checks the sum of what was read; three threads share an uneven buffer."""
    core = _core.Probe(3, 7 << 20, _core.isa_available()[-1])
    for readers in (1, 2, 3):
        for m in METHODS:
            assert core.read(readers, m.huge, m.streams, m.ahead) > 0


def test_better_of_two(found: Ceilings) -> None:
    better = replace(found, read_gb_per_s=1e6, read_method="m", clock_ghz=0.1, int8_gops=None)
    best = found.best(better)
    assert best == better.best(found)
    assert (best.read_gb_per_s, best.read_method) == (1e6, "m")
    assert best.clock_ghz == found.clock_ghz and best.int8_gops == found.int8_gops


def test_compute_is_the_highest_peak(found: Ceilings) -> None:
    assert replace(found, amx_int8_gops=1e9).compute == ("amx_int8_gops", 1e9)
    others = ("int8_gops", "bf16_gflops", "amx_int8_gops", "amx_bf16_gflops")
    bare = replace(found, **dict.fromkeys(others))
    assert bare.compute == ("f32_gflops", found.f32_gflops)


def test_prompts_are_held_against_what_multiplies_them(found: Ceilings) -> None:
    tiles = replace(found, amx_int8_gops=2e9, amx_bf16_gflops=1e9)
    assert tiles.prompt_compute(in_bf16=True) == ("amx_bf16_gflops", 1e9)
    pairs = replace(found, amx_bf16_gflops=None, bf16_gflops=5.0)
    assert pairs.prompt_compute(in_bf16=True) == ("bf16_gflops", 5.0)
    vectors = replace(found, int8_gops=3e9)
    assert vectors.prompt_compute(in_bf16=False) == ("int8_gops", 3e9)


def test_whole_measurement_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BUFFER_BYTES", SMALL)
    start = time.perf_counter()
    assert measure(1).threads == 1
    assert time.perf_counter() - start < 30


def test_a_limited_instruction_set_has_no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWELL_FORCE_ISA", "scalar")
    limited = Probe(1, buffer_bytes=SMALL).measure()
    assert limited.isa == "scalar" and limited.int8_gops is None and limited.amx_int8_gops is None


def test_faults_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryBudgetError, match="close other programs"):
        Probe(1, room=100 << 20)
    with pytest.raises(UsageError, match="num_threads"):
        Probe(0)
    core = _core.Probe(1, 2 << 20, "scalar")
    for wrong in ((2, False, 1, 0), (0, False, 1, 0), (1, False, 3, 0)):
        with pytest.raises(ValueError):
            core.read(*wrong)
    with pytest.raises(ValueError, match="kind"):
        core.peak("int4", 0.01)
    with pytest.raises(ValueError, match="threads"):
        _core.Probe(0, 2 << 20, "scalar")
    monkeypatch.setenv("QWELL_FORCE_ISA", "avx9000")
    with pytest.raises(UsageError, match="avx9000"):
        measure(1)
