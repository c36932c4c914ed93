"""Faults a user can act on.

Every `QwellError` is one line: what is wrong, then what to do. The command prints it and
ends with `exit_code`; the library raises it. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


class QwellError(Exception):
    """A fault the user can act on: one line, and the exit code of the command."""

    exit_code = 1


class UsageError(QwellError):
    """An impossible option or argument."""

    exit_code = 2


class NotFoundError(QwellError):
    """A model, file or name that does not exist."""

    exit_code = 3


class MissingPackageError(NotFoundError):
    """A package that the base install leaves out."""

    def __init__(self, work: str, package: str) -> None:
        super().__init__(
            f"{work} needs the package {package}: run `make setup-train` in qwell's folder, "
            "or install the extra 'tour'"
        )


class DownloadError(QwellError):
    """The network failed, is forbidden, or gave bytes that do not match their hash."""

    exit_code = 4


class StorageError(QwellError):
    """The disk is full, the folder read-only, or a lock is held."""

    exit_code = 5

    @classmethod
    @contextmanager
    def instead(cls, path: Path, *, full: str, refused: str) -> Iterator[None]:
        """Raised within for the operating system's refusal to write `path`. What to do: `full`
        where there is no room, `refused` for all else."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise cls(f"the disk is full (writing {path}): {full}") from error
            what = "is read-only or not yours" if error.errno in _FORBIDDEN else "cannot be written"
            raise cls(f"{path} {what} ({error.strerror or error}): {refused}") from error


class CheckpointError(QwellError):
    """A model file that is cut, corrupt or not what it says. Names the file and the tensor."""

    exit_code = 6


class UnsupportedModelError(CheckpointError):
    """A sound file of a model qwell does not run yet, refused by the name of what is missing."""

    exit_code = 7


class TextError(QwellError):
    """A template that fails or a text that cannot be encoded."""

    exit_code = 8


class ContextLengthError(QwellError):
    """A prompt longer than the context. Carries the counts; nothing is ever truncated."""

    exit_code = 9

    def __init__(self, prompt_tokens: int, max_context: int) -> None:
        self.prompt_tokens, self.max_context = prompt_tokens, max_context
        super().__init__(
            f"the prompt has {prompt_tokens:,} tokens but the context holds {max_context:,}: "
            "shorten the prompt, or load the model with a larger --ctx if it allows one"
        )


class MemoryBudgetError(QwellError):
    """The weights or the KV cache do not fit in memory."""

    exit_code = 10


class DataError(QwellError):
    """A record of a data set that is wrong, or data that is not what a run began with. Names the
    file and the line."""

    exit_code = 11


class TrainingError(QwellError):
    """A run that cannot start or go on: it does not fit, does not learn, or its data does not."""

    exit_code = 12
