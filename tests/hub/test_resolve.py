"""A path, an alias or an id becomes files; what is here is used where it lies."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from qwell.errors import DownloadError, NotFoundError, UsageError
from qwell.hub import store
from qwell.hub.catalogue import Entry, lookup
from qwell.hub.pull import pull
from qwell.hub.resolve import find, resolve, stored
from tests.hub.conftest import DATA, FILE, Hub, hf_listing


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_a_gguf_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "m.gguf")
    monkeypatch.chdir(tmp_path)
    for spelling in ("m.gguf", "./m.gguf", str(tmp_path / "m.gguf")):
        model = resolve(spelling)
        assert (model.kind, model.paths, model.entry) == ("gguf", (tmp_path / "m.gguf",), None)
        assert model.name == spelling


def test_any_part_means_the_whole_set(tmp_path: Path) -> None:
    names = [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    write(tmp_path, *names)
    whole = tuple(tmp_path / name for name in names)
    assert resolve(str(whole[0])).paths == resolve(str(whole[2])).paths == whole
    assert resolve(str(tmp_path)).paths == whole
    whole[1].unlink()
    with pytest.raises(
        NotFoundError, match=r"1 of 3 parts are missing, first m-00002-of-00003.gguf"
    ):
        resolve(str(whole[0]))


def test_a_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "f", "config.json", "model.safetensors")
    model = resolve(str(folder))
    assert (model.kind, model.paths) == ("folder", (folder,))


def test_a_local_folder_shadows_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "Qwen/Qwen2.5-0.5B", "config.json", "model.safetensors")
    assert resolve("Qwen/Qwen2.5-0.5B").paths == (folder,)


@pytest.mark.parametrize(
    ("make", "model", "message"),
    [
        ([], "/no/such/model.gguf", "there is no file or folder"),
        (
            ["run/config.json", "run/model/config.json"],
            "./run",
            "run holds a run of training: give .*run/model",
        ),
        ([], "./nothing", "there is no file or folder"),
        ([], "missing.gguf", "there is no file or folder missing.gguf"),
        ([], "a\0b", "no model is called"),
        (["d/readme"], "d", "holds no config.json with .safetensors weights"),
        (["d/a.gguf", "d/b.gguf"], "d", "for GGUF add :FILE, one of a.gguf, b.gguf"),
    ],
)
def test_a_path_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: list[str], model: str, message: str
) -> None:
    monkeypatch.chdir(write(tmp_path, *make))
    with pytest.raises(NotFoundError, match=message):
        resolve(model)


@pytest.mark.parametrize("model", ["m.safetensors", "x" * 5000, ""])
def test_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.chdir(write(tmp_path, "m.safetensors"))
    with pytest.raises(UsageError) as caught:
        resolve(model)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_resolve_pulls_once_and_then_needs_no_network(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = resolve("Org/Tiny:q8_0")
    assert model.paths[0].read_bytes() == DATA and model.kind == "gguf"
    assert model.entry == lookup("Org/Tiny:q8_0")
    monkeypatch.setenv("QWELL_OFFLINE", "1")
    assert resolve("Org/Tiny:q8_0").paths == model.paths
    model.paths[0].write_bytes(b"short")
    with pytest.raises(DownloadError, match="is not on this machine"):
        resolve("Org/Tiny:q8_0")


def test_a_pulled_folder_is_its_folder(hub: Hub) -> None:
    hub.files["Org/M"] = {"config.json": b"{}", "model.safetensors": b"w", "vocab.json": b"{}"}
    model = resolve("Org/M")
    assert model.paths == (store.model_dir("Org--M"),) and model.kind == "folder"


def test_stored_says_how_to_get_it(entry: Entry) -> None:
    with pytest.raises(NotFoundError, match="run 'qwell pull tiny:q8_0'"):
        stored(entry)


def hf_cache(repo: str, files: dict[str, bytes]) -> Path:
    """A snapshot as huggingface_hub lays it out: links to blobs named by their hash."""
    root = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text("c0ffee")
    (root / "blobs").mkdir(exist_ok=True)
    for sibling in hf_listing(files)["siblings"]:
        name = sibling["rfilename"]
        blob = root / "blobs" / (sibling.get("lfs") or {"sha256": sibling["blobId"]})["sha256"]
        blob.write_bytes(files[name])
        link = root / "snapshots" / "c0ffee" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return root / "snapshots" / "c0ffee"


def test_a_hugging_face_cache_is_used_in_place(entry: Entry, home: Path) -> None:
    snapshot = hf_cache("Org/Tiny", {FILE: DATA})
    found = find(entry)
    assert found and found.paths == (snapshot / FILE,)
    assert resolve("Org/Tiny:q8_0").paths == (snapshot / FILE,)
    assert not home.exists()


def test_other_bytes_in_the_cache_are_not_taken_for_known_ones(entry: Entry) -> None:
    hf_cache("Org/Tiny", {FILE: DATA[::-1]})
    assert find(entry) is None
    hf_cache("Org/Tiny2", {FILE: DATA[:-1]})
    assert find(lookup("Org/Tiny2:q8_0")) is not None  # nothing is known of this one


FOLDER = {"config.json": b"{}", "model.safetensors": b"w", "tokenizer.json": b"{ }"}
SHARDS = {f"model-0000{i}-of-00002.safetensors": b"%d" % i for i in (1, 2)}


@pytest.mark.parametrize(
    ("files", "is_whole"),
    [
        (FOLDER, True),
        ({**FOLDER, **SHARDS, "model.safetensors.index.json": b"i"}, True),
        ({**FOLDER, **SHARDS}, False),
        ({**FOLDER, "model-00001-of-00002.safetensors": b"1"}, False),
        ({"config.json": b"{}"}, False),
        ({"config.json": b"{}", "model.safetensors": b"w"}, False),
        ({}, False),
    ],
    ids=["single", "shards", "no index", "one shard", "config alone", "no tokenizer", "empty"],
)
def test_a_partial_cache_is_left_alone(files: dict[str, bytes], is_whole: bool) -> None:
    snapshot = hf_cache("Org/M", files)
    found = find(lookup("Org/M"))
    assert (found.paths if found else None) == ((snapshot,) if is_whole else None)


def test_the_store_comes_before_the_cache(hub: Hub, entry: Entry) -> None:
    pull(entry)
    hf_cache("Org/Tiny", {FILE: DATA})
    found = find(entry)
    assert found and found.paths == (store.model_dir(entry.key) / FILE,)
