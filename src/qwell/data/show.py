"""An example for people: its tokens, each with what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qwell.data.example import Example
from qwell.text.tokenizer import Tokenizer

SHOWN = 1200
"""Characters of an example that is shown beside a finding."""


@dataclass(frozen=True)
class Token:
    """One token: is it learnt, is it a control token, and its bytes."""

    id: int
    raw: bytes
    is_learnt: bool
    is_control: bool


def tokens_of(tokenizer: Tokenizer, example: Example) -> Iterator[Token]:
    controls = set(tokenizer.special_tokens.values())
    for id, is_learnt in zip(example.input_ids.tolist(), example.is_target.tolist()):
        yield Token(id, tokenizer.token_bytes(id), is_learnt, id in controls)


def marked(tokenizer: Tokenizer, example: Example, limit: int | None = SHOWN) -> str:
    """The text with what is learnt between [[ and ]]; of one longer than `limit` characters the
    beginning and the end."""
    text, was_learnt = b"", False
    for token in tokens_of(tokenizer, example):
        if token.is_learnt != was_learnt:
            text += b"[[" if token.is_learnt else b"]]"
        text += token.raw
        was_learnt = token.is_learnt
    shown = (text + b"]]" * was_learnt).decode("utf-8", "replace")
    return shown if limit is None else shortened(shown, limit)


def shortened(text: str, limit: int = SHOWN) -> str:
    """The text, or its two ends with a word on how much lies between."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
