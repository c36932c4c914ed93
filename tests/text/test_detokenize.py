"""Streaming text equals whole text, and never shows half a character."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell.text import Detokenizer, Tokenizer
from tests.text.corpus import EMOJI


@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(st.integers(0, 151_700) | st.integers(94, 260) | st.integers(151_643, 151_664)),
    skip_special=st.booleans(),
)
def test_pieces_join_to_decode(tokenizer: Tokenizer, ids: list[int], skip_special: bool) -> None:
    stream = Detokenizer(tokenizer, skip_special=skip_special)
    pieces = [*map(stream.push, ids), stream.flush()]
    assert "".join(pieces) == tokenizer.decode(ids, skip_special=skip_special)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(EMOJI))
def test_no_piece_holds_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    """One byte a token, the worst case: each character comes whole, at its last byte."""
    stream = Detokenizer(tokenizer)
    single = {tokenizer.token_bytes(i): i for i in range(256)}
    for character in text:
        raw = character.encode()
        pieces = [stream.push(single[raw[i : i + 1]]) for i in range(len(raw))]
        assert pieces == [""] * (len(raw) - 1) + [character]
    assert stream.flush() == ""


def test_unfinished_character_appears_at_the_end(tokenizer: Tokenizer) -> None:
    stream = Detokenizer(tokenizer)
    (first, *_) = [i for i in range(256) if tokenizer.token_bytes(i) == b"\xf0"]
    assert stream.push(first) == ""
    assert stream.flush() == "\ufffd"
    assert stream.push(14990) == "hello"


@pytest.mark.parametrize("skip_special", [False, True])
def test_control_tokens(tokenizer: Tokenizer, skip_special: bool) -> None:
    stream = Detokenizer(tokenizer, skip_special=skip_special)
    assert stream.push(151_645) == ("" if skip_special else "<|im_end|>")
    assert stream.push(151_657) == "<tool_call>"
    assert stream.push(151_900) == ""
