"""Ids to text while they arrive, never half a character.

A token may end inside a UTF-8 character; its bytes wait here until the next tokens complete it.
Knows nothing of stop strings (the engine's business).
"""

from __future__ import annotations

import codecs

from qwell.text.tokenizer import Tokenizer


class Detokenizer:
    """One reply. The pieces joined, flush included, equal `Tokenizer.decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text this id completes: often one word, '' while a character is unfinished."""
        return "" if id in self._skipped else self._decoder.decode(self._tokenizer.token_bytes(id))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character. Push may start anew."""
        return self._decoder.decode(b"", final=True)
