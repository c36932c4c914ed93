"""Disks that are full or closed, two processes at once, a process that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwell.errors import StorageError
from qwell.hub import place, store
from qwell.hub.catalogue import Entry, lookup
from qwell.hub.pull import pull
from tests.hub.conftest import DATA, FILE, Handler, Hub, tree
from tests.hub.test_download import final, pull_hf


def test_damage_on_the_disk_is_repaired(hub: Hub, entry: Entry) -> None:
    pull_hf(entry)
    final(entry).write_bytes(DATA[:-1] + b"?")
    pull_hf(entry)
    assert final(entry).read_bytes() == DATA


def test_no_room_is_known_beforehand(
    hub: Hub, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(place.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="GB free: free some space"):
        pull_hf(entry)
    assert tree(tmp_path) == {}


def test_a_full_disk_ends_the_pull_and_resumes_later(hub: Hub, entry: Entry) -> None:
    """A file size limit refuses the write just as a full disk does (EFBIG for ENOSPC)."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(StorageError, match=r"the disk is full.*QWELL_HOME"):
            pull(entry)  # all sources allowed: a fault of the disk must not try the next one
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not final(entry).exists() and len(hub.requests) == 1
    pull_hf(entry)
    assert final(entry).read_bytes() == DATA


@pytest.mark.parametrize("place", ["a file in the way/qwell", "/proc/qwell"])
def test_a_home_that_cannot_be_written(
    hub: Hub, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "a file in the way").write_text("")
    monkeypatch.setenv("QWELL_HOME", str(tmp_path / place))
    with pytest.raises(StorageError, match="point QWELL_HOME at a folder you can write"):
        pull_hf(entry)
    assert hub.requests == []


def test_a_read_only_folder(
    hub: Hub, entry: Entry, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    home.chmod(0o500)
    if os.geteuid() == 0:  # root writes everywhere, so the refusal itself is played

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
    try:
        with pytest.raises(StorageError, match="is read-only or not yours"):
            pull_hf(entry)
    finally:
        home.chmod(0o700)


PULL = """
from qwell.hub.catalogue import lookup
from qwell.hub.pull import pull
pull(lookup("Org/Tiny:q8_0"))
"""


def start_pull() -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root / "src"), str(root)])
    return subprocess.Popen(
        [sys.executable, "-c", PULL],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
    )


def slowly(handler: Handler, body: bytes) -> None:
    """A third at once, the rest when the client has gone or after a while."""
    handler.send_response(200)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 3])
    handler.wfile.flush()
    time.sleep(1.0)
    with contextlib.suppress(OSError):
        handler.wfile.write(body[len(body) // 3 :])


def test_two_pulls_at_once_fetch_once(hub: Hub) -> None:
    hub.faults = [slowly]
    pulls = [start_pull(), start_pull()]
    for process in pulls:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    entry = lookup("Org/Tiny:q8_0")
    assert final(entry).read_bytes() == DATA
    assert sum(FILE in path for path in hub.paths) == 1
    assert sorted(p.name for p in final(entry).parent.iterdir()) == ["manifest.json", FILE]


def test_kill_leaves_no_final_file_and_the_next_pull_resumes(hub: Hub) -> None:
    hub.files["Org/Tiny"][FILE] = body = DATA * 20
    entry = lookup("Org/Tiny:q8_0")
    hub.faults = [slowly]
    process = start_pull()
    folder = store.model_dir(entry.key)
    deadline = time.monotonic() + 30
    while not any(p.stat().st_size for p in folder.glob("*.part")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not final(entry).exists() and store.read_manifest(entry.key) is None
    [left] = folder.glob("*.part")
    kept = left.stat().st_size
    pull(entry)
    assert hub.requests[-1][1] == f"bytes={kept}-" and 0 < kept < len(body)
    assert final(entry).read_bytes() == body
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["revision"] == "c0ffee"
