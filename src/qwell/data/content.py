"""Is the data still what it was? One hash over the bytes of its files.

Every byte counts: a sample of them, or sizes and times, would miss a letter that was mended, or
take a copy for something else. A start pays a second a gigabyte (sha256, Zen 5), of which a CPU
learns for days.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from qwell.errors import NotFoundError


def content_hash(paths: Iterable[Path]) -> str:
    """Of the files in their order; their names and times do not count. Raises NotFoundError for
    one that cannot be read."""
    whole = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise NotFoundError(f"{path}: cannot be read ({error.strerror}): check it") from error
    return whole.hexdigest()
