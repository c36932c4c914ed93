"""What the core says of this machine, and that Python's view of the core is current."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

import qwell
from qwell import _core
from qwell.errors import UsageError
from qwell.native import cpu, cpu_report, default_threads


def test_report() -> None:
    report = cpu_report()
    assert report["isa"] in report["isa_available"]
    assert report["isa_available"][0] == "scalar"
    assert report["threads"] == default_threads() >= 1


def test_threads_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWELL_NUM_THREADS", "3")
    assert default_threads() == 3
    for wrong in ("0", "-1", "two"):
        monkeypatch.setenv("QWELL_NUM_THREADS", wrong)
        with pytest.raises(UsageError, match="QWELL_NUM_THREADS"):
            default_threads()


def test_quota_cuts_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWELL_NUM_THREADS", raising=False)
    monkeypatch.setattr(cpu, "_cgroup_cpus", lambda: 1)
    assert default_threads() == 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these flags are of x86")
def test_features_are_those_the_system_lists() -> None:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = next(line for line in lines if line.startswith("flags")).split()
    features = _core.cpu_features()
    for name in ("avx2", "fma", "f16c", "avx_vnni", "avx512_vnni", "avx512_bf16"):
        assert features[name] == (name in flags), name
    needed = ("avx2", "fma", "f16c", "avx_vnni")
    assert ("avxvnni" in _core.isa_available()) == all(features[name] for name in needed)


def test_avx512_needs_avx2() -> None:
    if "avx512" in _core.isa_available():
        assert "avx2" in _core.isa_available()


def test_stub_is_current(tmp_path: Path) -> None:
    """`make fix` writes src/qwell/_core.pyi from the built core."""
    out = tmp_path / "_core.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "qwell._core", "-o", str(out)]
    subprocess.run(command, check=True)
    stub = Path(qwell.__file__).with_name("_core.pyi")
    assert stub.read_text() == out.read_text(), "run `make fix`"
