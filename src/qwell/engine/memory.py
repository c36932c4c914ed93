"""How much memory this process may still take, and whether a model fits into it.

It knows numbers of the system and of a config, not how they are used.
"""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwell.config import ModelConfig
from qwell.errors import MemoryBudgetError
from qwell.model.batch import PAGE_SIZE

WORK_BYTES = 200_000_000
"""The process itself, buffers of a step, a row of logits for each request."""


def available_bytes() -> int | None:
    """The least of: memory the system can give, room in the memory cgroups, RLIMIT_AS.

    Page cache counts as available. None where the system tells nothing.
    """
    found = [_meminfo(), *_cgroups(), _address_space()]
    return min((value for value in found if value is not None), default=None)


def give_back() -> None:
    """Lets the system have memory that was freed and that malloc keeps, where the libc can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def kv_bytes(config: ModelConfig, tokens: int, dtype: str) -> int:
    """Keys and values of so many tokens in float32, bf16 or int8 (with its scales)."""
    head_dim = config.head_dim
    scales = 2 * -(-head_dim // 32)
    of_head = {"float32": 4 * head_dim, "bf16": 2 * head_dim, "int8": head_dim + scales}[dtype]
    return 2 * config.num_layers * config.num_kv_heads * of_head * tokens


@dataclass(frozen=True, kw_only=True)
class Room:
    """What an engine may hold at a time."""

    max_seqs: int = 8
    """Requests in a step."""
    kv_budget: int | Literal["auto"] | None = None
    """Bytes for keys and values. None: one full context; 'auto': a quarter of the memory that is
    free once the weights are loaded, at least one full context."""


def plan_pages(
    name: str, config: ModelConfig, *, weight_bytes: int, ctx: int, kv_dtype: str, room: Room
) -> int:
    """Pages of the KV cache, reckoned before anything is loaded.

    Raises MemoryBudgetError with the numbers if weights and keys and values do not fit, or the
    budget is less than one context of ctx tokens needs.
    """
    available, of_page = available_bytes(), kv_bytes(config, PAGE_SIZE, kv_dtype)
    least = -(-ctx // PAGE_SIZE)
    pages = least
    if room.kv_budget == "auto":
        free = 0 if available is None else max(0, available - weight_bytes - WORK_BYTES)
        pages = max(least, min(free // 4 // of_page, room.max_seqs * least))
    elif room.kv_budget is not None:
        pages = room.kv_budget // of_page
        if pages < least:
            raise MemoryBudgetError(
                f"keys and values of one context of {ctx:,} tokens take "
                f"{least * of_page / 1e9:.2f} GB, but their budget is {room.kv_budget / 1e9:.2f} "
                f"GB: give more, or load with --ctx {room.kv_budget // of_page * PAGE_SIZE}"
            )
    if available is None or weight_bytes + pages * of_page + WORK_BYTES <= available:
        return pages
    fits = (available - weight_bytes - WORK_BYTES) // kv_bytes(config, 1, kv_dtype)
    fits = fits // 1024 * 1024
    advice = f"load it with --ctx {min(fits, ctx)}" if fits > 0 else "use a smaller model"
    if room.kv_budget is not None and fits >= ctx:
        advice = "give a smaller budget"
    raise MemoryBudgetError(
        f"{name} needs {weight_bytes / 1e9:.2f} GB for weights and {pages * of_page / 1e9:.2f} GB "
        f"for keys and values of {pages * PAGE_SIZE:,} tokens (and {WORK_BYTES / 1e9:.1f} GB to "
        f"work), but {available / 1e9:.2f} GB are available: {advice}, or close other programs"
    )


def _meminfo(path: Path = Path("/proc/meminfo")) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _cgroups(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Limit minus use, page cache not counted as use, of our cgroup and those above it; v2, v1."""
    rooms: list[int] = []
    lines: list[str] = []
    with suppress(OSError):
        lines = own.read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            base = root / controllers
            names = ("memory.max", "memory.current", "inactive_file")
            if controllers:
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            here = base / path.lstrip("/")
            # In a container the path may be the host's; then the root of the mount is ours.
            for folder in (here, *here.parents):
                rooms += _room(folder, *names)
                if folder == base:
                    break
    return rooms


def _room(folder: Path, limit: str, usage: str, cache: str) -> list[int]:
    """[] if there is no limit here."""
    with suppress(OSError, ValueError):  # "max" is no number
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used = int((folder / usage).read_text()) - int(stat.get(cache, 0))
        return [max(0, int((folder / limit).read_text()) - used)]
    return []


def _address_space() -> int | None:
    """RLIMIT_AS (`ulimit -v`) minus what is mapped."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    with suppress(OSError, ValueError, IndexError):
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            return max(0, limit - pages * resource.getpagesize())
    return None
