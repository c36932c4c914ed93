"""Text without added tokens -> ids: NFC, Qwen's split pattern, byte-level BPE.

Two workers give the same ids. The `tokenizers` library encodes 2 MB/s but takes 0.15 to 0.3 s to
build its vocabulary, with the GIL held; the loop below starts at once and is slow. So the first
characters of a process go through the loop, which answers a chat before the library is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING

from qwell.text.sources import PATTERN
from qwell.text.vocabulary import BYTE_OF, Vocabulary

if TYPE_CHECKING:
    import tokenizers
    from tokenizers import normalizers, pre_tokenizers

LOOP_CHARS = 65_536
"""Characters a Bpe encodes in the loop, as long as building the library's vocabulary takes."""
LOOP_PIECE = 128
"""Bytes of the longest piece the loop takes: its time is quadratic in them."""

_CHUNK = 16_384
_LONG, _TURN = 1 << 20, Lock()
_CUT = re.compile(r"(?<=\S)(?= )")
_BYTE_ID = {char: i for i, char in enumerate(BYTE_OF)}
_NEVER = 1 << 62


class Bpe:
    """Encodes text in which no token is special. Safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._nfc, self._split = pipeline()
        self._loop_chars = LOOP_CHARS

    def encode(self, text: str) -> list[int]:
        """Ids of text, which must be free of lone surrogates. Time is linear in its length."""
        if len(text) <= self._loop_chars:
            pieces = self.pieces(text)
            if all(len(piece) <= LOOP_PIECE for piece in pieces):
                self._loop_chars -= len(text)
                return [i for piece in pieces for i in self.merge(piece)]
        self._loop_chars = 0
        return self.encode_long(text)

    def pieces(self, text: str) -> list[str]:
        """What the split pattern makes of NFC(text), in the byte alphabet."""
        normal = self._nfc.normalize_str(text)
        return [piece for piece, _ in self._split.pre_tokenize_str(normal)]

    def merge(self, piece: str) -> list[int]:
        """Ids of one piece: the earliest merge first, at its leftmost place, until none applies."""
        parts, ids = list(piece), [_BYTE_ID[char] for char in piece]
        while len(parts) > 1:
            made = [self._id_of_merge.get(f"{a} {b}", _NEVER) for a, b in pairwise(parts)]
            first = min(made)
            if first == _NEVER:
                break
            at = made.index(first)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            ids[at : at + 2] = [first]
        return ids

    def encode_long(self, text: str) -> list[int]:
        """The same through the library, in chunks: it needs 60 bytes of memory a character, so that
        long texts without a place to cut take turns. Called for a batch, it lets other threads run.
        """
        ids: list[int] = []
        for part in chunks(text):
            with _TURN if len(part) > _LONG else nullcontext():
                [found] = self._library.encode_batch_fast([part], add_special_tokens=False)
            ids += found.ids
        return ids

    @cached_property
    def _id_of_merge(self) -> dict[str, int]:
        return dict(zip(self._vocabulary.merges, range(256, self._vocabulary.size)))

    @cached_property
    def _library(self) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer, models

        tokens: Sequence[str] = self._vocabulary.tokens()
        vocab = dict(zip(tokens, range(len(tokens))))
        merges = [(a, b) for a, _, b in (m.partition(" ") for m in self._vocabulary.merges)]
        library = Tokenizer(models.BPE(vocab, merges))
        library.normalizer = self._nfc
        library.pre_tokenizer = self._split
        return library


def pipeline() -> tuple[normalizers.NFC, pre_tokenizers.Sequence]:
    """What happens to text before merges: NFC, then the split pattern and the byte alphabet."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    steps = [
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return normalizers.NFC(), pre_tokenizers.Sequence(steps)


def chunks(text: str, size: int = _CHUNK) -> Iterator[str]:
    """Cuts text where no id depends on it: before a space that follows a visible character.

    No piece of the pattern spans that place, no look-ahead reaches over it, and a space neither
    composes nor reorders in NFC. Text without such a place stays whole.
    """
    start = 0
    while cut := _CUT.search(text, start + size):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]
