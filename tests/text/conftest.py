"""The official tokenizer, made from the rank file; no model is needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiktoken

from qwell.text import Tokenizer
from qwell.text.vocabulary import Vocabulary
from tests.text import ranks


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    special = frozenset(ranks.ADDED[text] for text in ranks.SPECIAL)
    return Vocabulary(ranks.merges(), ranks.ADDED, special, ranks.ADDED["<|im_end|>"])


@pytest.fixture(scope="session")
def tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    return Tokenizer(vocabulary)


@pytest.fixture(scope="session")
def oracle() -> Callable[[str], list[int]]:
    """An independent encoder of NFC text in which nothing is special."""
    encoding = tiktoken.Encoding(
        "qwen", pat_str=ranks.PATTERN, mergeable_ranks=ranks.ranks(), special_tokens={}
    )
    return encoding.encode_ordinary
