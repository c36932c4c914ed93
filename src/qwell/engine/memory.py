"""How much memory this process may still take, and whether a model fits into it.

It knows numbers of the system and of a config, not how they are used.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

from qwell.config import ModelConfig
from qwell.errors import MemoryBudgetError

_SCRATCH = 200_000_000  # the process itself, buffers of a step, a row of logits per request


def available_bytes() -> int | None:
    """The least of: memory the system can give, room in the memory cgroups, RLIMIT_AS.

    Page cache counts as available. None where the system tells nothing.
    """
    found = [_meminfo(), *_cgroups(), _address_space()]
    return min((value for value in found if value is not None), default=None)


def kv_bytes(config: ModelConfig, tokens: int, dtype: str) -> int:
    """Keys and values of so many tokens in float32, bf16 or int8 (with its scales)."""
    head_dim = config.head_dim
    scales = 2 * -(-head_dim // 32)
    of_head = {"float32": 4 * head_dim, "bf16": 2 * head_dim, "int8": head_dim + scales}[dtype]
    return 2 * config.num_layers * config.num_kv_heads * of_head * tokens


def check_memory(
    name: str, config: ModelConfig, *, weight_bytes: int, ctx: int, kv_dtype: str
) -> None:
    """Raises MemoryBudgetError with the numbers if weights and a full context do not fit."""
    available = available_bytes()
    kv = kv_bytes(config, ctx, kv_dtype)
    if available is None or weight_bytes + kv + _SCRATCH <= available:
        return
    fits = (available - weight_bytes - _SCRATCH) // kv_bytes(config, 1, kv_dtype)
    fits = fits // 1024 * 1024
    advice = f"load it with --ctx {fits}" if fits > 0 else "use a smaller model"
    raise MemoryBudgetError(
        f"{name} needs {weight_bytes / 1e9:.2f} GB for weights and {kv / 1e9:.2f} GB for a context "
        f"of {ctx:,} tokens (and {_SCRATCH / 1e9:.1f} GB to work), but {available / 1e9:.2f} GB "
        f"are available: {advice}, or close other programs"
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
