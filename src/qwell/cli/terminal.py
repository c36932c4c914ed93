"""What the user sees while waiting and reading: progress on stderr, the model's text on stdout.

It knows nothing of models. On a terminal progress is one line that rewrites itself and vanishes;
in a pipe it is silent, or a line every few seconds where waiting would look like hanging.
"""

from __future__ import annotations

import sys
from time import perf_counter

_REDRAW_S, _LINE_S = 0.1, 5.0

# A model's text must not drive the terminal: control characters become pictures of themselves.
_VISIBLE = {c: 0x2400 + c for c in range(32) if chr(c) not in "\n\t"}
_VISIBLE |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


class Progress:
    """A callable (done, total) that shows how far something is. Close it before other output."""

    def __init__(self, label: str, *, in_pipes: bool = False, wait_s: float = 0.5) -> None:
        """Shows nothing for what ends within wait_s. in_pipes: lines if stderr is no terminal."""
        self.label, self.is_tty, self.in_pipes = label, sys.stderr.isatty(), in_pipes
        self.started = perf_counter()
        self.next_at = self.started + (wait_s if self.is_tty else _LINE_S)
        self.is_shown = False

    def __call__(self, done: int, total: int) -> None:
        now = perf_counter()
        if now < self.next_at or not (self.is_tty or self.in_pipes):
            return
        self.next_at = now + (_REDRAW_S if self.is_tty else _LINE_S)
        text = f"{self.label}: {100 * done // total} %"
        if done:
            text += f", {(now - self.started) * (total - done) / done:.0f} s left"
        self.is_shown = self.is_tty
        sys.stderr.write(f"\r\x1b[K{text}" if self.is_tty else f"{text}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Removes the line."""
        if self.is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self.is_shown = False


class AnswerWriter:
    """Writes a model's text to stdout piece by piece, each at once."""

    def __init__(self) -> None:
        self.is_tty = sys.stdout.isatty()
        self.at_line_start = True

    def write(self, text: str) -> None:
        if text:
            sys.stdout.write(text.translate(_VISIBLE) if self.is_tty else text)
            sys.stdout.flush()
            self.at_line_start = text.endswith("\n")

    def end(self) -> None:
        """Ends the last line if the text did not."""
        if not self.at_line_start:
            self.write("\n")


def note(text: str) -> None:
    """A remark that is not part of the answer."""
    print(text, file=sys.stderr, flush=True)
