"""The data of a Qwen tokenizer: its merges in order, and the tokens added on top of them.

In every Qwen vocabulary an id is a rank: ids 0..255 are the bytes, id 256 + i is the result of
merge i, and the added tokens follow. So the merges are the whole vocabulary, and a file whose
tokens say otherwise is refused. Strings are in the byte alphabet of GPT-2, one character a byte.
Does not know where the data came from (sources.py) nor how text is cut (tokenizer.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwell.errors import CheckpointError, StorageError

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [b for b in range(256) if b not in _PRINTABLE]

BYTE_OF = {chr(b): b for b in _PRINTABLE} | {chr(256 + i): b for i, b in enumerate(_HIDDEN)}
"""The byte a character of the byte alphabet stands for, in the order of ids 0..255."""

MAX_JSON = 33_000_000
"""Bytes of a JSON file that is parsed, which may take thirty times as much memory. The largest
tokenizer.json of the family has 11 MB."""

_FORMAT = "qwell-tokenizer-1"


@dataclass(frozen=True)
class Vocabulary:
    """Merges as lines "left right", added tokens by spelling, and which of those are special."""

    merges: Sequence[str]
    added: Mapping[str, int]
    special: frozenset[int]
    """Ids that `skip_special` leaves out of decoded text; `<tool_call>` and FIM tokens are not."""
    eos: int | None = None

    def tokens(self) -> list[str]:
        """Spellings of ids 0..255+len(merges) in the byte alphabet."""
        return [*BYTE_OF, *"\n".join(self.merges).replace(" ", "").split("\n")][: self.size]

    @property
    def size(self) -> int:
        """Tokens that come from bytes and merges: 151,643."""
        return 256 + len(self.merges)

    def save(self, path: Path) -> None:
        """Writes the form `load` reads fastest. Raises StorageError."""
        text = json.dumps(
            {
                "format": _FORMAT,
                "merges": "\n".join(self.merges),
                "added": dict(self.added),
                "special": sorted(self.special),
                "eos": self.eos,
            },
            ensure_ascii=False,
        )
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads what `save` wrote; a damaged file is a CheckpointError. It is trusted to be ours,
        so the merges are not checked again."""
        raw = read_json(path)
        if raw.get("format") != _FORMAT:
            raise CheckpointError(f"{path}: is not a {_FORMAT} file; delete it to have it rebuilt")
        try:
            merges = raw["merges"].split("\n") if raw["merges"] else []
            added = {str(text): int(i) for text, i in raw["added"].items()}
            return cls(merges, added, frozenset(map(int, raw["special"])), raw["eos"])
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: is damaged; delete it to have it rebuilt") from error


def checked(
    tokens: Sequence[str],
    merges: Iterable[str],
    added: Sequence[tuple[str, int]],
    special: Iterable[int],
    *,
    eos: int | None,
    where: str,
) -> Vocabulary:
    """The vocabulary of a file that is not trusted: `tokens` are the spellings of ids 0.. without
    the added ones. Raises CheckpointError if they are not what the merges make."""
    found = Vocabulary(list(merges), dict(added), frozenset(special), eos)
    made = found.tokens()
    known = dict.fromkeys(made)
    parts = [part for merge in found.merges for part in merge.split(" ")]
    if len(parts) != 2 * len(found.merges) or any(part not in known for part in parts):
        raise CheckpointError(f"{where}: a merge does not join two tokens of the vocabulary")
    if len(known) != len(made) or list(tokens) != made:
        raise CheckpointError(
            f"{where}: the tokens are not the 256 bytes followed by the results of the merges, "
            "as in every Qwen vocabulary"
        )
    ids = set(found.added.values())
    if not len(found.added) == len(ids) == len(added):
        raise CheckpointError(f"{where}: an added token appears twice, or two share an id")
    if any(i < found.size for i in ids):
        raise CheckpointError(f"{where}: an added token has the id of a merge")
    if eos is not None and not (0 <= eos < found.size or eos in ids):
        raise CheckpointError(f"{where}: the end token {eos} is not a token")
    try:
        "".join(found.added).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{where}: an added token is not valid Unicode") from error
    if any(len(text) < 2 for text in found.added):
        raise CheckpointError(f"{where}: an added token is shorter than two characters")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object. Raises CheckpointError naming the file."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise CheckpointError(f"{path}: has more than {MAX_JSON / 1e6:.0f} MB; fetch it again")
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: is not a JSON object")
    return raw
