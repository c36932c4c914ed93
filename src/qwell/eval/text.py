"""The text a model is measured on, with its name and hash: a number without its text says nothing.

A file the user names, the file QWELL_EVAL_TEXT names, or English prose every machine has: the
language reference inside the running Python. It knows nothing of tokens.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from qwell.errors import NotFoundError, TextError
from qwell.text.plain import file_text

VARIABLE = "QWELL_EVAL_TEXT"


@dataclass(frozen=True)
class EvalText:
    """name: where the text is from; sha256: of its UTF-8 bytes."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def find_text(path: str | Path | None = None) -> EvalText:
    """The text of `path`, else of the file in QWELL_EVAL_TEXT, else Python's own reference.

    Raises NotFoundError if the file is not there, TextError if it is not UTF-8 text."""
    if path is None:
        path = os.environ.get(VARIABLE) or None
    return _python_reference() if path is None else _read(Path(path).expanduser())


def _read(path: Path) -> EvalText:
    try:
        return EvalText(path.name, file_text(path.read_bytes()))
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path}: not UTF-8 text (byte {error.start:,}); give a plain text file"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise NotFoundError(f"{path}: cannot be read ({reason}); check the path") from error


def _python_reference() -> EvalText:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise NotFoundError(
            f"this Python comes without its documentation: name a text with --text or {VARIABLE}"
        ) from error
    name = f"language reference of Python {platform.python_version()}"
    return EvalText(name, "\n\n".join(topics[key] for key in sorted(topics)))
