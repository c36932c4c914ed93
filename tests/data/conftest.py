"""The official vocabulary, for the few tests that compare ids with published ones."""

from __future__ import annotations

from tests.text.conftest import tokenizer, vocabulary

__all__ = ["tokenizer", "vocabulary"]
