"""Finds stop strings in text that arrives in pieces, whatever the pieces are.

The text ends at the first place, read character by character, where a stop string is complete;
if several are complete there, the longest counts. So how tokens cut the text changes nothing.
It knows no tokens; stop ids are the business of `reply.py`.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text through, holding back an end that may yet become a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """What is now sure to belong to the reply, and the stop string that ended it, if any.

        After a stop string nothing more may be pushed.
        """
        text = self._held + text
        found = [
            (text.find(stop) + len(stop), -len(stop), stop) for stop in self.stops if stop in text
        ]
        if found:
            end, _, stop = min(found)
            self._held = ""
            return text[: end - len(stop)], stop
        keep = len(text) - max((_overlap(text, stop) for stop in self.stops), default=0)
        self._held = text[keep:]
        return text[:keep], None

    def flush(self) -> str:
        """The text held back, when the reply ends without a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` without being all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
