"""AMX's real instructions on a CPU without AMX: each traps and is emulated (amx_traps.cpp)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from qwell import _core

SCRIPT = Path(__file__).parents[2] / "tools" / "amx_check.sh"
TILED = ["test_tiles.py", "test_tile_bytes.py", "test_roles.py"]
TESTS = [*(f"tests/native/{name}" for name in TILED), "tests/train/test_kernels.py"]


@pytest.mark.slow
@pytest.mark.skipif(_core.amx_status() == "ok", reason="AMX itself is run by the other tests")
@pytest.mark.skipif(
    not _core.cpu_features()["avx512_bf16"],
    reason="no tile instruction was run: tiles are emulated over AVX-512 BF16",
)
def test_tile_instructions_trapped_and_emulated() -> None:
    done = subprocess.run([SCRIPT, *TESTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    # What is left out without AMX ("AMX was not run ...") is run there.
    assert re.search(r"^\d+ passed in", done.stdout, re.M), done.stdout[-4000:]
