"""How chat reads what the user types: an editable prompt on a terminal, plain lines elsewhere.

Both kinds are a function from a prompt mark to one entry; the end of input is EOFError. A text
between two marks of three quotes spans lines in either.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from qwell.cli.terminal import note
from qwell.errors import TextError, UsageError

ReadEntry = Callable[[str], str]
QUOTES = '"""'


def is_interactive() -> bool:
    """Somebody sits at a terminal that shows what we print."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def entry_reader(history: Path) -> ReadEntry:
    """The reader that suits stdin; `history` is the file of earlier entries."""
    return _terminal_reader(history) if is_interactive() else _read_line


def read_message(read: ReadEntry) -> str:
    """One message: an entry, or all between two marks of three quotes. Raises EOFError at the
    end of input, UsageError if it comes before the closing mark."""
    text = read("> ")
    if not text.startswith(QUOTES):
        return text
    text = text.removeprefix(QUOTES)
    while not text.endswith(QUOTES):
        try:
            text += "\n" + read(". ")
        except EOFError as error:
            raise UsageError(
                f"the text after {QUOTES} is not closed: end it with {QUOTES}"
            ) from error
    return text.removesuffix(QUOTES).strip("\n")


def _read_line(mark: str) -> str:
    if sys.stdin is None:
        raise EOFError
    if sys.stdin.isatty():
        print(mark, end="", file=sys.stderr, flush=True)
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise TextError(
            "stdin is not UTF-8: convert it, for example with iconv -t UTF-8"
        ) from error


def _terminal_reader(path: Path) -> ReadEntry:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("enter")(lambda event: event.current_buffer.validate_and_handle())
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    session = PromptSession(
        history=_history(path), key_bindings=keys, multiline=True, prompt_continuation="  "
    )

    def read(mark: str) -> str:
        return str(session.prompt(mark))

    return read


def _history(path: Path) -> object:
    """Kept in a file only its owner may read; in memory if the disk refuses."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError as error:
        note(f"history is not kept: {path}: {error.strerror}")
        return InMemoryHistory()
    return FileHistory(str(path))
