"""Is the data still what it was? One hash over the bytes of its files.

Every byte counts: a sample of them, or sizes and times, would miss a letter that was mended, or
take a copy for something else. A start pays a second a gigabyte (sha256, Zen 5), of which a CPU
learns for days.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from qwell.data.records import reading

_CHUNK = 1 << 20


def content_hash(
    paths: Sequence[Path],
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> str:
    """Of the files in their order; their names and times do not count. progress(done, total) counts
    bytes. Raises NotFoundError for one that cannot be read."""
    whole, done, total = hashlib.sha256(), 0, 0
    for path in paths:
        with reading(path):
            total += path.stat().st_size
    for path in paths:
        own = hashlib.sha256()
        with reading(path), path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                own.update(chunk)
                done += len(chunk)
                progress(done, total)
        whole.update(own.digest())
    return whole.hexdigest()
