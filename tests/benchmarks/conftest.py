"""Puts benchmarks/peers on the path, as running a script there does."""

from __future__ import annotations

import sys
from pathlib import Path

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
sys.path.insert(0, str(PEERS))
