"""The text of a plain text file, as users have them: UTF-8, from Windows with a mark in front."""

from __future__ import annotations

_MARK = "\ufeff"


def file_text(raw: bytes) -> str:
    """The text in the bytes of a file from its beginning on. A byte order mark there says how the
    file is written and is no part of it. Raises UnicodeDecodeError; `start` is a byte of `raw`,
    which the codec utf-8-sig does not promise."""
    return raw.decode().removeprefix(_MARK)
