"""The Qwen tokenizer: text to ids and back, exact to the official one.

Text is first split at the added tokens it may contain (longest match), then the rest goes to
bpe.py. Nothing is added at the ends: Qwen has no BOS. Invalid text (a lone surrogate) is refused
with its position; ids that are no text (padding rows) decode to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from qwell.errors import TextError
from qwell.text import sources
from qwell.text.bpe import Bpe
from qwell.text.vocabulary import BYTE_OF, Vocabulary

_END_TOKENS = ("<|im_end|>", "<|endoftext|>")


class Tokenizer:
    """Encodes and decodes. Immutable to its users and safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._added_bytes = {i: text.encode() for text, i in vocabulary.added.items()}
        longest_first = sorted(vocabulary.added, key=len, reverse=True)
        # (?!) matches nothing: a vocabulary may have no added tokens.
        self._added = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """From the keys `tokenizer.ggml.*`. Raises CheckpointError, UnsupportedModelError."""
        return cls(sources.from_gguf(metadata))

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """From tokenizer.json, else vocab.json and merges.txt with tokenizer_config.json.
        Raises NotFoundError, CheckpointError, UnsupportedModelError."""
        return cls(sources.from_folder(folder))

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """From a file that `save` wrote: the fastest way. Raises CheckpointError."""
        return cls(Vocabulary.load(path))

    def save(self, path: Path) -> None:
        """Writes the cached form, 1.8 MB, atomically. Raises StorageError."""
        self._vocabulary.save(path)

    @property
    def vocabulary(self) -> Vocabulary:
        """What it is made of: merges and added tokens."""
        return self._vocabulary

    @property
    def vocab_size(self) -> int:
        """Real tokens (151,665), without the padding rows of the embedding."""
        return max([self._vocabulary.size - 1, *self._added_bytes]) + 1

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Every added token: spelling -> id."""
        return MappingProxyType(dict(self._vocabulary.added))

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids `skip_special` drops. Not among them: `<tool_call>`, FIM and repository tokens,
        which the model writes as part of its visible text."""
        return self._vocabulary.special

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a reply: what the files name, and the end tokens of the family."""
        added, eos = self._vocabulary.added, self._vocabulary.eos
        ends = {added[text] for text in _END_TOKENS if text in added}
        return tuple(sorted(ends | ({eos} if eos is not None else set())))

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of text. The spelling of an added token becomes that token only if allow_special.

        Raises TextError naming the character if text holds a lone surrogate.
        """
        return self._encode(text, self._added.split(text) if allow_special else [text])

    def encode_marked(self, text: str, marker: str) -> list[int]:
        """Like encode with allow_special, where `marker` breaks the spellings that must stay text
        and is itself no part of the text (see chat.py)."""
        pieces = self._added.split(text)
        return self._encode(text, [piece.replace(marker, "") for piece in pieces])

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        skipped = self.special_ids if skip_special else frozenset()
        raw = b"".join(self.token_bytes(i) for i in ids if i not in skipped)
        return raw.decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """Bytes of one token; an added token's are its spelling, a padding row's are b''."""
        if id < 0:
            raise TextError(f"token id {id} is negative: ids start at 0")
        if id < 256:
            return self._byte_tokens[id]
        if id < self._vocabulary.size:
            merge = self._vocabulary.merges[id - 256]
            return bytes([BYTE_OF[char] for char in merge if char != " "])
        return self._added_bytes.get(id, b"")

    def _encode(self, text: str, pieces: list[str]) -> list[int]:
        """Ids of pieces: ordinary text at even places, added tokens at odd ones."""
        check_unicode(text)
        ids: list[int] = []
        for place, piece in enumerate(pieces):
            ids += [self._vocabulary.added[piece]] if place % 2 else self._bpe.encode(piece)
        return ids

    @cached_property
    def _bpe(self) -> Bpe:
        return Bpe(self._vocabulary)

    @cached_property
    def _byte_tokens(self) -> list[bytes]:
        return [bytes([byte]) for byte in BYTE_OF.values()]


def check_unicode(text: str, where: str = "the text") -> None:
    """Raises TextError if text holds a lone surrogate, which no UTF-8 can carry."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise TextError(
            f"{where} has the lone surrogate U+{code:04X} at character {error.start}: "
            "it is not valid Unicode; remove or replace it"
        ) from error
