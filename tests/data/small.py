"""A tokenizer of 256 bytes, a few merges and Qwen's control tokens: made in no time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwell.text.tokenizer import Tokenizer
from qwell.text.vocabulary import Vocabulary
from tests.text.ranks import SPECIAL, VISIBLE

MERGES = ["Ċ Ċ", "ĊĊ Ċ", "Ġ Ġ", "Ġ a", "t h", "th e", "Ġ the", "i n", "< |", "| >"]
"""Among them what could join a line break of a template with one of a reply, and "<|"."""


def small_tokenizer() -> Tokenizer:
    names = [*SPECIAL, *VISIBLE]
    first = 256 + len(MERGES)
    added = {text: first + i for i, text in enumerate(names)}
    special = frozenset(added[text] for text in SPECIAL)
    return Tokenizer(Vocabulary(MERGES, added, special, added["<|im_end|>"]))


def write_lines(path: Path, values: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values), "utf-8")
    return path
