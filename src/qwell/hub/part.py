"""One file on its way in: bytes go to a `.part` beside the final name and are hashed as they land.

`PartFile.commit` is the only door to the final name, and it opens for the right length and hash
alone. The part's name carries the expected hash, so bytes meant for another version never mix in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from qwell.errors import DownloadError
from qwell.hub.catalogue import RemoteFile
from qwell.hub.place import writing
from qwell.hub.store import StoredFile

_CHUNK = 1 << 20


class _WrongBytesError(DownloadError):
    """All bytes came and they are the wrong ones."""


class PartFile:
    """An open `.part`, appended to at `position`. Opening it takes up what an earlier pull left."""

    def __init__(self, final: Path, want: RemoteFile) -> None:
        self.final, self.want = final, want
        self.path = part_path(final, want)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        self.rewind(min(self.path.stat().st_size, want.size))
        self.was_resumed = self.position > 0

    @property
    def position(self) -> int:
        return self._hash.size

    def rewind(self, position: int) -> None:
        """Drops every byte from `position` on and hashes the rest again."""
        self._hash = _Hash(self.want)
        with writing(self.path):
            self._file.truncate(position)
            self._file.seek(0)
            while chunk := self._file.read(_CHUNK):
                self._hash.update(chunk)

    def write(self, chunk: bytes) -> None:
        """Appends. Raises StorageError if the disk refuses."""
        with writing(self.path):
            self._file.write(chunk)
        self._hash.update(chunk)

    def commit(self) -> StoredFile:
        """Verifies and gives the file its final name, durably. On a wrong length or hash the part
        is deleted and DownloadError raised."""
        if complaint := self._hash.complaint():
            self.path.unlink()
            raise _WrongBytesError(complaint)
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self.path.replace(self.final)
            _sync_folder(self.final.parent)
        return self._hash.stored()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # a full disk refuses the buffered bytes once more
            self._file.close()
        if self.position == 0:
            self.path.unlink(missing_ok=True)


def land(final: Path, want: RemoteFile, fill: Callable[[PartFile], None]) -> StoredFile:
    """Brings one file under its final name: what stands there already is verified, otherwise
    `fill` appends the bytes still missing. Raises DownloadError if they are not the right ones."""
    if not (want.sha256 or want.git_sha1):
        raise DownloadError(f"no hash is known for {want.path}: qwell keeps no unverified file")
    if stored := verify(final, want):
        return stored
    with writing(final):
        final.unlink(missing_ok=True)
    while True:
        with PartFile(final, want) as part:
            try:
                fill(part)
                return part.commit()
            except _WrongBytesError:
                # Old bytes may be to blame (a power cut, a disk fault): once more from nothing.
                if not part.was_resumed:
                    raise


def part_path(final: Path, want: RemoteFile) -> Path:
    return final.with_name(f"{final.name}.{(want.sha256 or want.git_sha1 or '')[:12]}.part")


def bytes_here(final: Path, want: RemoteFile) -> int:
    """How much of the file is already on the disk, finished or not."""
    for path in (final, part_path(final, want)):
        with suppress(OSError):
            return min(path.stat().st_size, want.size)
    return 0


def verify(final: Path, want: RemoteFile) -> StoredFile | None:
    """Reads and hashes the file under its final name; None if it is not there or not the one."""
    digest = _Hash(want)
    try:
        with final.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return None
    return None if digest.complaint() else digest.stored()


class _Hash:
    """Size and hashes of bytes as they pass, against what is wanted."""

    def __init__(self, want: RemoteFile) -> None:
        self.want, self.size = want, 0
        self._sha256 = hashlib.sha256()
        # Git names a blob by the SHA-1 of this header and the bytes.
        header = b"blob %d\0" % want.size
        self._git = None if want.sha256 else hashlib.sha1(header, usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._sha256.update(chunk)
        if self._git:
            self._git.update(chunk)

    def complaint(self) -> str | None:
        """What is wrong, in one line; None if these are the wanted bytes."""
        want = self.want
        if self.size != want.size:
            return f"{want.path} has {self.size:,} bytes instead of {want.size:,}"
        got = self._git.hexdigest() if self._git else self._sha256.hexdigest()
        expected = want.sha256 or want.git_sha1 or ""
        if got != expected:
            return f"{want.path} has the hash {got[:16]}... instead of {expected[:16]}..."
        return None

    def stored(self) -> StoredFile:
        return StoredFile(path=self.want.path, size=self.size, sha256=self._sha256.hexdigest())


def _sync_folder(folder: Path) -> None:
    """Makes the rename survive a power cut; not every system can open a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
