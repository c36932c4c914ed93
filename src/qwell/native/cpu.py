"""What this machine offers the core: instruction sets, and how many threads may run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qwell import _core
from qwell.errors import UsageError

MAX_THREADS = 1024


def check_threads(count: int, what: str) -> int:
    """`count`, if it is a number of threads the core takes; UsageError naming `what` if not."""
    if not 1 <= count <= MAX_THREADS:
        raise UsageError(f"{what} must be a number from 1 to {MAX_THREADS}")
    return count


def default_threads() -> int:
    """Cores this process may use: its affinity, cut by the cgroup's CPU quota; QWELL_NUM_THREADS
    overrides. At least 1."""
    forced = os.environ.get("QWELL_NUM_THREADS")
    if forced:
        return check_threads(int(forced) if forced.isdecimal() else 0, "QWELL_NUM_THREADS")
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(affinity or 1, _cgroup_cpus()))


def _cgroup_cpus() -> int:
    """Whole CPUs of the cgroup v2 quota; a large number where there is none."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return 1 << 20


def selected_isa() -> str:
    """The instruction set in use. Raises UsageError if QWELL_FORCE_ISA names one that is not
    here."""
    try:
        return str(_core.isa_selected())
    except ValueError as error:
        raise UsageError(f"QWELL_FORCE_ISA: {error}") from error


def cpu_report() -> dict[str, Any]:
    """For `qwell doctor`: isa, isa_available, flags (CPUID bits that are on), amx ('ok', or why its
    tiles are not used), threads."""
    return {
        "isa": selected_isa(),
        "isa_available": list(_core.isa_available()),
        "flags": [name for name, on in _core.cpu_features().items() if on],
        "amx": str(_core.amx_status()),
        "threads": default_threads(),
    }
