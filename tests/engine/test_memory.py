"""What the system says about memory, from files of every kind it may have."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from qwell.engine import memory
from qwell.errors import MemoryBudgetError
from tests.model.tiny import make_config

GB = 10**9


def test_something_is_known_here() -> None:
    found = memory.available_bytes()
    assert found is not None and 10**7 < found < 10**15


def test_meminfo(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal: 99 kB\nMemAvailable:    2048 kB\n")
    assert memory._meminfo(path) == 2 * 2**20
    assert memory._meminfo(tmp_path / "none") is None


def write(folder: Path, limit: str, usage: int, cache: int, version: int) -> None:
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\n")


def test_cgroup_v2_counts_every_level(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    write(tmp_path / "a", "1000", 700, 200, 2)
    write(tmp_path / "a/b", "max", 300, 0, 2)
    assert memory._cgroups(own, tmp_path) == [500]
    write(tmp_path / "a/b", "400", 300, 0, 2)
    assert memory._cgroups(own, tmp_path) == [100, 500]
    write(tmp_path / "a/b", "400", 500, 0, 2)
    assert memory._cgroups(own, tmp_path) == [0, 500]


def test_cgroup_v1_in_a_container_that_sees_only_its_root(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("5:cpu:/docker/x\n4:memory:/docker/x\n0::/\n")
    write(tmp_path / "memory", "5000", 1000, 100, 1)
    assert memory._cgroups(own, tmp_path) == [4100]
    assert memory._cgroups(tmp_path / "none", tmp_path) == []


def test_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert memory._address_space() is None
    monkeypatch.setattr("resource.getrlimit", lambda _: (2**40, 2**40))
    room = memory._address_space()
    assert room is not None and 0 < room < 2**40


def test_kv_bytes_of_the_smallest_model() -> None:
    config = make_config(num_hidden_layers=24, num_key_value_heads=2, head_dim=64)
    assert memory.kv_bytes(config, 1, "bf16") == 12_288
    assert memory.kv_bytes(config, 1, "float32") == 24_576
    assert memory.kv_bytes(config, 1, "int8") == 12_288 // 2 * 34 // 32


CONFIG = make_config(num_hidden_layers=32, num_key_value_heads=4, head_dim=256)
"""131,072 bytes a token: 8,192 tokens take 1.07 GB."""


def pages(free: int | None, patch: pytest.MonkeyPatch, **room: Any) -> int:
    patch.setattr(memory, "available_bytes", lambda: free)
    return memory.plan_pages(
        "m", CONFIG, weight_bytes=2 * GB, ctx=8192, kv_dtype="bf16", room=memory.Room(**room)
    )


@pytest.mark.parametrize(
    ("free", "advice"), [(3 * GB, "--ctx 5120"), (2 * GB, "use a smaller model")]
)
def test_what_does_not_fit_is_told(free: int, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryBudgetError, match=advice) as caught:
        pages(free, monkeypatch)
    numbers = ("m needs 2.00 GB for weights", "1.07 GB for keys and values of 8,192 tokens")
    assert all(number in str(caught.value) for number in numbers)


def test_pages_of_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pages(4 * GB, monkeypatch) == pages(None, monkeypatch) == 128
    assert pages(9 * GB, monkeypatch, kv_budget=3 * GB) == 3 * GB // 2**23
    with pytest.raises(
        MemoryBudgetError, match=r"budget is 1\.00 GB: give more, or load with --ctx"
    ):
        pages(9 * GB, monkeypatch, kv_budget=GB)
    with pytest.raises(MemoryBudgetError, match="give a smaller budget"):
        pages(4 * GB, monkeypatch, kv_budget=3 * GB)


def test_pages_of_a_quarter_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pages(22_200_000_000, monkeypatch, kv_budget="auto") == 20 * GB // 4 // 2**23
    assert pages(22_200_000_000, monkeypatch, kv_budget="auto", max_seqs=3) == 3 * 128
    assert pages(4 * GB, monkeypatch, kv_budget="auto") == 128  # one context at least
    assert pages(None, monkeypatch, kv_budget="auto") == 128
