"""What stands on the disk, and that removal takes that and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qwell.hub import packs, place, store
from qwell.hub.catalogue import Entry
from qwell.hub.pull import pull
from tests.hub.conftest import DATA, FILE, Hub, tree


def pack(name: str, *sources: Path) -> Path:
    folder = packs.packed_dir() / name
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"source": [str(path) for path in sources]}))
    (folder / "weights.bin").write_bytes(b"w" * 100)
    return folder


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QWELL_HOME", "~/models")
    assert place.home() == Path.home() / "models"
    monkeypatch.setenv("QWELL_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert place.home() == tmp_path / "qwell"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert place.home() == Path.home() / ".cache" / "qwell"


def test_an_empty_store_stays_absent(home: Path) -> None:
    assert store.models() == () and store.remove("a--b") == 0 and not home.exists()


def test_what_goes_while_it_is_measured_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip removes its temporary folders while their growth is shown as progress."""
    for name in ("gone", "here"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(b"x" * 100)
    real = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "gone":
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert place.disk_bytes(tmp_path) == 100


def test_models_are_listed_with_their_size(hub: Hub, entry: Entry) -> None:
    pull(entry)
    [model] = store.models()
    manifest = (store.model_dir(entry.key) / store.MANIFEST).stat().st_size
    assert (model.key, model.disk_bytes) == (entry.key, len(DATA) + manifest)
    assert model.manifest and model.manifest.files[0].path == FILE


def test_remove_takes_the_model_its_packed_weights_and_nothing_else(
    hub: Hub, entry: Entry, home: Path, tmp_path: Path
) -> None:
    others = pack("other", tmp_path / "other.gguf")
    broken = packs.packed_dir() / "broken"
    broken.mkdir()
    (broken / "model.json").write_text("{")
    before = tree(home)
    pull(entry)
    ours = pack("ours", store.model_dir(entry.key) / FILE)
    freed = store.remove(entry.key)
    assert freed > len(DATA) + 100 and not ours.exists() and others.exists()
    assert tree(home) == before


def test_remove_of_a_link_leaves_what_it_points_to(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("mine")
    (home / "models").mkdir(parents=True)
    store.model_dir("a--b").symlink_to(tmp_path / "elsewhere")
    store.remove("a--b")
    assert (tmp_path / "elsewhere" / "file").read_text() == "mine"
    assert not store.model_dir("a--b").is_symlink()


def test_packed_weights_of_a_users_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_text("x")
    packed = pack("mine", mine)
    assert packs.remove_packed([mine]) > 100
    assert not packed.exists() and mine.exists()
    assert packs.remove_packed([mine]) == 0
