"""NEON kernels against scalar, bit for bit, under emulation. Real hardware has not run them yet."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "neon_check.sh"
TOOLS = ("aarch64-linux-gnu-g++", "qemu-aarch64")
FAMILIES = 7


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)),
    reason=f"no NEON kernel was compiled or run: needs {' and '.join(TOOLS)}",
)
def test_neon_kernels_give_the_bits_of_scalar() -> None:
    done = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [line for line in done.stdout.splitlines() if line.endswith(" values, 0 differ")]
    checked = [line.split()[0] for line in results]
    assert checked == ["neon"] * FAMILIES + ["dotprod"] * FAMILIES


def test_missing_tools_are_named_with_their_packages(tmp_path: Path) -> None:
    bash = str(shutil.which("bash"))
    alone = {"PATH": str(tmp_path)}
    done = subprocess.run([bash, SCRIPT], env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "qwell: aarch64-linux-gnu-g++ is missing: apt-get install g++-aarch64-linux-gnu qemu-user"
    ]
