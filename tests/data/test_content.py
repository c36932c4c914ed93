"""The hash of the data: of every byte, in order, with progress while it is read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from qwell.data import content
from qwell.data.content import content_hash
from qwell.errors import NotFoundError


def test_it_is_the_hash_of_the_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_CHUNK", 10)
    texts = [b"a" * 25, b"", b"b" * 8]
    paths = [tmp_path / str(i) for i in range(3)]
    for path, text in zip(paths, texts):
        path.write_bytes(text)
    seen: list[tuple[int, int]] = []
    found = content_hash(paths, lambda done, total: seen.append((done, total)))
    expected = b"".join(hashlib.sha256(text).digest() for text in texts)
    assert found == hashlib.sha256(expected).hexdigest()
    assert seen == [(done, 33) for done in (10, 20, 25, 33)]
    assert content_hash(paths[::-1]) != found
    with pytest.raises(NotFoundError, match=r"none: cannot be read \(No such file"):
        content_hash([*paths, tmp_path / "none"])
