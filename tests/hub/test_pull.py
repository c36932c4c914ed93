"""Sources in order, listings of both hubs, and what a hostile listing may not do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qwell.errors import DownloadError, NotFoundError, UsageError
from qwell.hub import store
from qwell.hub.catalogue import Entry, lookup
from qwell.hub.pull import pull, source_order
from tests.hub.conftest import DATA, FILE, Hub, cut, status, tree
from tests.hub.test_download import Listener, final

FOLDER = {
    "config.json": b"{}",
    "tokenizer.json": b"{ }",
    "model-00001-of-00002.safetensors": DATA[:1000],
    "model-00002-of-00002.safetensors": DATA[1000:3000],
    "model.safetensors.index.json": b"[]",
    "pytorch_model.bin": b"pickle",
    "run.py": b"code",
}


def test_an_unreachable_source_falls_through_to_the_next(
    hub: Hub, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("QWELL_MODELSCOPE_ENDPOINT", hub.url)
    listener = Listener()
    manifest = pull(entry, reporter=listener)
    assert manifest.source == "modelscope" and final(entry).read_bytes() == DATA
    [note] = listener.notes
    assert note.startswith("huggingface: cannot reach 127.0.0.1:1")
    assert note.endswith("; trying modelscope")


def test_the_next_source_goes_on_where_the_first_was_cut(
    hub: Hub, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWELL_MODELSCOPE_ENDPOINT", hub.url)
    hub.faults = [cut(5000)] + [status(503)] * 4
    assert pull(entry).source == "modelscope"
    assert hub.requests[-1][:2] == (f"/models/Org/Tiny/resolve/master/{FILE}", "bytes=5000-")
    assert final(entry).read_bytes() == DATA


def test_when_all_fail_all_are_named(entry: Entry, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        pull(entry)
    text = str(caught.value)
    assert "huggingface: cannot" in text and "modelscope: cannot" in text and "\n" not in text
    assert tree(tmp_path) == {}


def test_order_of_sources(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    coder, other = lookup("qwen2.5-coder:0.5b"), lookup("other/Model")
    assert source_order(coder) == ["huggingface", "modelscope", "mirror"]
    assert source_order(entry) == ["huggingface", "modelscope"]
    assert source_order(other) == ["huggingface"]
    assert source_order(other, "modelscope") == ["modelscope"]
    monkeypatch.setenv("QWELL_SOURCE", "mirror, huggingface")
    assert source_order(coder) == ["mirror", "huggingface"]
    assert source_order(coder, "modelscope") == ["modelscope"]
    with pytest.raises(UsageError, match="unknown source 'ftp': choose from huggingface"):
        source_order(coder, "ftp")
    with pytest.raises(UsageError, match="the package mirror has no other/Model"):
        source_order(other, "mirror")


def test_a_folder_is_listed_pinned_and_verified(hub: Hub) -> None:
    """Small files have no SHA-256 in huggingface's listing; git's blob hash verifies them."""
    hub.files["Org/Model"] = FOLDER
    entry = lookup("Org/Model")
    manifest = pull(entry)
    folder = store.model_dir(entry.key)
    got = {path.name: path.read_bytes() for path in folder.iterdir() if path.name in FOLDER}
    assert got == {name: FOLDER[name] for name in FOLDER if name[-3:] not in ("bin", ".py")}
    assert manifest.revision == "c0ffee"
    assert all("/c0ffee/" in path for path in hub.paths if "resolve" in path)


def test_a_small_file_with_wrong_bytes_is_refused(hub: Hub) -> None:
    hub.files["Org/Model"] = FOLDER

    def change(listing: dict) -> None:
        next(s for s in listing["siblings"] if s["rfilename"] == "config.json")["blobId"] = "0" * 40

    hub.listing_change = change
    with pytest.raises(DownloadError, match=r"config.json has the hash"):
        pull(lookup("Org/Model"))
    assert store.read_manifest("Org--Model") is None


def test_a_folder_cut_half_way_keeps_its_verified_files(hub: Hub) -> None:
    hub.files["Org/Model"] = FOLDER
    hub.faults = [lambda handler, body: handler.reply(body)] * 2 + [status(404)]
    with pytest.raises(NotFoundError):
        pull(lookup("Org/Model"))
    [held] = store.models()
    assert held.manifest is None and held.disk_bytes > 0
    hub.requests.clear()
    pull(lookup("Org/Model"))
    fetched = [path for path in hub.paths if "resolve" in path]
    assert len(fetched) == 3


def test_modelscope_lists_too(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWELL_MODELSCOPE_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    hub.files["Org/Model"] = FOLDER
    assert pull(lookup("Org/Model"), source="modelscope").source == "modelscope"
    assert {auth for _, _, auth in hub.requests} == {None}


def test_a_split_gguf_comes_whole(hub: Hub) -> None:
    names = [f"m-q4_0-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    hub.files["Org/Split"] = {name: name.encode() for name in names} | {"m-q8_0.gguf": b"no"}
    manifest = pull(lookup("Org/Split:q4_0"))
    assert [file.path for file in manifest.files] == names


@pytest.mark.parametrize("path", ["../evil-q8_0.gguf", "/evil-q8_0.gguf", "a\\..\\e-q8_0.gguf"])
def test_a_listing_cannot_lead_out_of_the_folder(hub: Hub, tmp_path: Path, path: str) -> None:
    hub.files["Org/Evil"] = {path: b"evil"}
    with pytest.raises(NotFoundError, match="no file fits"):
        pull(lookup("Org/Evil:q8_0"))
    assert tree(tmp_path) == {}


def _file(**over: object) -> dict:
    blob = {"rfilename": FILE, "size": 3, "blobId": "0" * 40}
    return {"siblings": [blob | over]}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"siblings": None},
        {"siblings": [{"rfilename": 3}]},
        {"siblings": ["x"]},
        _file(rfilename=3),
        _file(size=-5),
        _file(size=10**30),
        _file(size=float("inf")),
        _file(blobId="../../x"),
        _file(lfs={"sha256": 5, "size": 3}),
        _file(lfs={"sha256": "../../../x", "size": 3}),
    ],
)
def test_a_broken_listing_is_a_fault_of_the_source(hub: Hub, answer: dict) -> None:
    def change(listing: dict) -> None:
        listing.clear()
        listing.update(answer)

    hub.listing_change = change
    with pytest.raises(DownloadError, match="sent a listing of Org/Tiny that qwell cannot read"):
        pull(lookup("Org/Tiny:q8_0"))


def test_a_stale_manifest_is_not_believed(hub: Hub, entry: Entry) -> None:
    pull(entry)
    (store.model_dir(entry.key) / store.MANIFEST).write_text('{"name": 1}')
    assert store.read_manifest(entry.key) is None
    pull(entry)
    manifest = store.read_manifest(entry.key)
    assert manifest and manifest.name == "tiny:q8_0"


def test_another_version_never_mixes_with_an_old_part(hub: Hub, entry: Entry) -> None:
    hub.faults = [cut(1000), status(404)]
    with pytest.raises(NotFoundError):
        pull(entry, source="huggingface")
    hub.files["Org/Tiny"][FILE] = newer = DATA[::-1]
    pull(replace(entry, files=()), source="huggingface")
    assert final(entry).read_bytes() == newer and hub.requests[-1][1] is None


def test_a_file_named_like_our_manifest_is_left_out(hub: Hub) -> None:
    """It was overwritten by ours, so the model never stood whole."""
    hub.files["Org/Folder"] = FOLDER | {"manifest.json": b"[1]"}
    entry = lookup("Org/Folder")
    pulled = pull(entry, source="huggingface")
    assert store.read_manifest(entry.key) == pulled


def test_nothing_of_another_revision_stays_beside_a_model(hub: Hub) -> None:
    """A template that is gone would go on to be read before the right one."""
    hub.files["Org/Folder"] = FOLDER | {"chat_template.jinja": b"old", "model.safetensors": DATA}
    hub.faults = [lambda handler, body: handler.reply_range(body)] * 3 + [cut(1000), status(404)]
    entry = lookup("Org/Folder")
    with pytest.raises(NotFoundError):
        pull(entry, source="huggingface")
    kept = {path.name.partition(".")[0] for path in store.model_dir(entry.key).iterdir()}
    assert {"chat_template", "model-00001-of-00002"} <= kept

    hub.files["Org/Folder"] = FOLDER
    pulled = pull(entry, source="huggingface")
    here = {path.name for path in store.model_dir(entry.key).iterdir()}
    assert here == {file.path for file in pulled.files} | {store.MANIFEST}
