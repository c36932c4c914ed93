"""`qwell doctor`: sound machines pass, broken ones are named, nothing is written."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from qwell import native
from qwell.cli import doctor
from qwell.native import probe
from tests.cli.tiny import Run, tree


@pytest.fixture(autouse=True)
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BUFFER_BYTES", 4 << 20)


def test_a_sound_machine(run: Run, home: Path) -> None:
    before = tree(home)
    result = run("doctor")
    assert result.code == 0, result
    named = {line[5:19].strip() for line in result.out.splitlines()}
    assert named >= {"python", "packages", "kernels", "cpu", "threads", "cores", "memory", "disk"}
    assert named >= {"clock", "read", "compute"}
    assert "QWELL_OFFLINE" in result.out
    assert tree(home) == before


def test_forced_kernels_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWELL_FORCE_ISA", "scalar")
    assert "scalar (QWELL_FORCE_ISA=scalar)" in run("doctor").out
    monkeypatch.setenv("QWELL_FORCE_ISA", "avx9000")
    result = run("doctor")
    assert result.code == 1 and "native core" in result.err


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("ok", "ok   AMX "),
        ("tile state was lost", "warn AMX           its tiles are not used: tile"),
    ],
)
def test_the_self_test_of_amx_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, status: str, line: str
) -> None:
    report = native.cpu_report()
    flags = [*report["flags"], "amx_bf16"]
    monkeypatch.setattr(native, "cpu_report", lambda: {**report, "flags": flags, "amx": status})
    assert f"\n{line}" in run("doctor").out


def test_unwritable_home_is_fatal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("")
    monkeypatch.setenv("QWELL_HOME", str(Path("file").absolute() / "home"))
    result = run("doctor")
    assert result.code == 1
    assert result.err == "qwell: broken: disk; the lines marked FAIL say what to do\n"
    assert "FAIL disk" in result.out and "point QWELL_HOME" in result.out


def test_missing_package_is_fatal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_NEEDED", ("numpy", "no-such-package"))
    result = run("doctor")
    assert result.code == 1 and "missing: no-such-package" in result.out


def test_every_dependency_is_looked_for() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    wanted = tomllib.loads(project.read_text("utf-8"))["project"]["dependencies"]
    assert {re.split("[<>=]", line)[0] for line in wanted} == set(doctor._NEEDED)


def test_sources_are_asked_when_allowed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWELL_OFFLINE")
    for name in ("HF_ENDPOINT", "QWELL_MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    result = run("doctor")
    assert result.code == 0, "a machine without a network is sound"
    assert "warn huggingface" in result.out and "warn modelscope" in result.out
    assert "mirror" in result.out


def test_a_check_that_fails_does_not_end_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_quota", lambda: 1 / 0)
    result = run("doctor")
    assert "warn cores" in result.out and "ok   memory" in result.out
