"""A conversation as chat keeps it, and its file: {"model": ..., "messages": [...]}.

A message is {"role", "content"}; a reply the user stopped also has "stopped": true. Files are
checked whole before anything is taken from them, and replaced at once, never half written.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from qwell.errors import NotFoundError, StorageError, UsageError

Message = dict[str, Any]
ROLES = ("system", "user", "assistant")


class Conversation:
    """The messages so far; the system message, if any, is the first."""

    def __init__(self, messages: list[Message] | None = None) -> None:
        self.messages = messages or []

    def set_system(self, text: str) -> None:
        """Sets the system message, in place of the one before."""
        rest = self.messages[1:] if self._has_system else self.messages
        self.messages = [{"role": "system", "content": text}, *rest]

    def reset(self) -> None:
        """Forgets all but the system message."""
        self.messages = self.messages[:1] if self._has_system else []

    def add(self, role: str, content: str, *, stopped: bool = False) -> None:
        self.messages.append(
            {"role": role, "content": content} | ({"stopped": True} if stopped else {})
        )

    def for_model(self) -> list[dict[str, str]]:
        """Role and content alone: marks are ours, not the template's."""
        return [{"role": m["role"], "content": m["content"]} for m in self.messages]

    @property
    def _has_system(self) -> bool:
        return bool(self.messages) and self.messages[0]["role"] == "system"


def save(path: Path, model: str, conversation: Conversation) -> None:
    """Writes the file at once. Raises UsageError rather than replace a file that is no saved
    conversation, StorageError if the disk refuses."""
    if path.exists():
        try:
            load(path)
        except UsageError as error:
            raise UsageError(
                f"{path} exists and is no saved conversation: choose another name"
            ) from error
    text = json.dumps(
        {"model": model, "messages": conversation.messages}, ensure_ascii=False, indent=1
    )
    try:
        _replace(path, text + "\n")
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}): choose another place"
        ) from error


def load(path: Path) -> tuple[str, Conversation]:
    """The model's name and the conversation in a file written by `save`. Raises NotFoundError if
    it cannot be read, UsageError if it is anything else."""
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        reason = error.strerror or error
        raise NotFoundError(f"{path} cannot be read ({reason}): check the path") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: give a file written by /save") from error
    fault = _fault(raw)
    if fault:
        raise UsageError(f"{path} is no saved conversation ({fault}): give a file written by /save")
    return raw["model"], Conversation(raw["messages"])


def _fault(raw: Any) -> str | None:
    if not isinstance(raw, dict) or set(raw) != {"model", "messages"}:
        return "it must hold 'model' and 'messages'"
    if not isinstance(raw["model"], str) or not isinstance(raw["messages"], list):
        return "'model' must be a text and 'messages' a list"
    for number, message in enumerate(raw["messages"], 1):
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            return f"message {number} needs 'role' and 'content'"
        if strange := sorted(set(message) - {"role", "content", "stopped"}):
            return f"message {number} has an unknown key {strange[0]!r}"
        if message["role"] not in ROLES:
            return f"message {number} has an unknown role {message['role']!r}"
        if message["role"] == "system" and number > 1:
            return f"message {number} is a system message but not the first"
        if not _is_text(message["content"]) or message.get("stopped", True) is not True:
            return f"message {number} has a content that is no text, or a strange 'stopped'"
    return None


def _is_text(value: Any) -> bool:
    """JSON can spell lone surrogates, which no tokenizer takes."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _replace(path: Path, text: str) -> None:
    """The old file or the new one, whole, whatever happens."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
