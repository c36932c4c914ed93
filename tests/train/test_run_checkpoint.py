"""Checkpoints are whole or not there, whatever the disk does."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwell.errors import CheckpointError, StorageError
from qwell.train import run_checkpoint
from qwell.train.run_checkpoint import RunCheckpoints, read, write_tensors

GROUPS = {
    "model": {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)},
    "rng": {"torch.0": torch.get_rng_state(), "empty": torch.empty(0), "one": torch.tensor(7)},
}


@pytest.fixture
def kept(tmp_path: Path) -> RunCheckpoints:
    found = RunCheckpoints(tmp_path / "checkpoints", keep_last=2, keep_best=1)
    found.prepare()
    return found


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """A disk that is full after `size` bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(found: RunCheckpoints) -> list[str]:
    return sorted(path.name for path in found.folder.iterdir())


def test_what_is_written_is_read(kept: RunCheckpoints) -> None:
    path = kept.save(7, GROUPS, {"data": [1, 2.5, None]}, loss=1.25)
    saved = read(path)
    assert (saved.step, saved.state) == (7, {"data": [1, 2.5, None]})
    for group, tensors in GROUPS.items():
        assert saved.groups[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(saved.groups[group][name], tensor)
            assert saved.groups[group][name].dtype == tensor.dtype


def test_the_files_are_safetensors_and_json(kept: RunCheckpoints) -> None:
    path = kept.save(1, GROUPS, {})
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json", ".sha256"}
    json.loads((path / "state.json").read_text())


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", GROUPS["model"] | {"t": torch.ones(4, 3).t()})
    found = load_file(tmp_path / "x.safetensors")
    assert torch.equal(found["t"], torch.ones(3, 4)) and torch.equal(
        found["a"], GROUPS["model"]["a"]
    )


def test_last_and_best_are_kept(kept: RunCheckpoints) -> None:
    for step, loss in ((1, 3.0), (2, 1.0), (3, None), (4, 2.0), (5, 2.5)):
        kept.save(step, GROUPS, {}, loss=loss)
    assert kept.steps() == [5, 4, 2] and kept.best() == 2


def test_a_flipped_bit_anywhere_is_seen(kept: RunCheckpoints) -> None:
    path = kept.save(1, GROUPS, {"x": 1})
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            broken = bytearray(whole)
            broken[at] ^= 4
            file.write_bytes(broken)
            with pytest.raises(CheckpointError):
                read(path)
        file.write_bytes(whole[:-1])
        with pytest.raises(CheckpointError):
            read(path)
        file.unlink()
        with pytest.raises(CheckpointError):
            read(path)
        file.write_bytes(whole)
    read(path)


def test_fall_back_says_so(kept: RunCheckpoints) -> None:
    kept.save(1, GROUPS, {})
    (kept.save(2, GROUPS, {}) / "rng.safetensors").unlink()
    told: list[str] = []
    found = kept.newest(told.append)
    assert found and found.step == 1
    assert "step-00000002" in told[0] and "falling back" in told[0]


def test_a_full_disk_leaves_nothing_half_written(kept: RunCheckpoints) -> None:
    kept.save(1, GROUPS, {})
    large = {"model": {"a": torch.zeros(100_000)}}
    with files_at_most(50_000), pytest.raises(StorageError, match="disk is full"):
        kept.save(2, large, {})
    assert names(kept) == ["step-00000001"]
    kept.save(2, large, {})
    assert kept.steps() == [2, 1]


def test_too_little_room_is_told_before_writing(
    kept: RunCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = run_checkpoint.shutil.disk_usage(kept.folder)._replace(free=10)
    monkeypatch.setattr(run_checkpoint.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="make room"):
        kept.save(1, GROUPS, {})
    assert names(kept) == []


def test_a_read_only_folder(tmp_path: Path) -> None:
    """Root may write anywhere, so a file stands where the folder should be for it."""
    if os.geteuid() == 0:
        (tmp_path / "out").write_text("")
    else:
        (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="--out"):
        RunCheckpoints(tmp_path / "out" / "checkpoints").prepare()


def test_leftovers_of_a_crash_are_removed(kept: RunCheckpoints) -> None:
    kept.save(3, GROUPS, {})
    (kept.folder / "step-00000004.new.tmp").mkdir()
    (kept.folder / "step-00000004.new.tmp/model.safetensors").write_bytes(b"half")
    (kept.folder / "step-00000002.old.tmp").mkdir()
    (kept.folder / "probe.7.tmp").write_bytes(b"qwell")
    assert kept.steps() == [3]
    kept.prepare()
    assert names(kept) == ["step-00000003"]


def test_a_folder_somebody_put_aside_is_no_checkpoint(kept: RunCheckpoints) -> None:
    kept.save(3, GROUPS, {})
    (kept.folder / "step-00000003").rename(kept.folder / "step-00000003-mine")
    assert kept.steps() == []
    kept.save(4, GROUPS, {})
    assert names(kept) == ["step-00000003-mine", "step-00000004"]


def test_the_same_step_again_replaces_it(kept: RunCheckpoints) -> None:
    kept.save(1, GROUPS, {"try": 1})
    kept.save(1, GROUPS, {"try": 2})
    found = kept.newest(print)
    assert found and found.state == {"try": 2}
