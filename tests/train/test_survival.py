"""A run that is killed again and again is the run that was not; `make proof-survival` for 200."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/proof_survival.py"


@pytest.mark.slow
def test_ten_kills() -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), "--kills", "10", "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'kills': 10" in done.stdout
