"""A learnt tokenizer: Qwen's pipeline, the same twice, lossless, and what cannot be learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell.data.learn_bpe import (
    SPECIAL,
    VISIBLE,
    _first_merges,
    learn_tokenizer,
    save_tokenizer,
)
from qwell.errors import DataError, UsageError
from qwell.text import ChatTemplate, Tokenizer, find_template
from tests.text import ranks

SENTENCE = "def return self value import print the and model tensor shape encode documents"
WORDS = [*SENTENCE.split(), "arguments", "generator"]
TEXTS = [
    "".join(f"{WORDS[(i * j) % 15]} {WORDS[(i + j) % 15]}({i * j}) = \n" for j in range(60))
    for i in range(1, 12)
]


@pytest.fixture(scope="module")
def learnt() -> Tokenizer:
    return learn_tokenizer(TEXTS, vocab_size=350)


def test_control_tokens_are_those_of_qwen() -> None:
    assert [*SPECIAL, *VISIBLE] == [*ranks.SPECIAL, *ranks.VISIBLE] == list(ranks.ADDED)


def test_its_size_and_its_control_tokens(learnt: Tokenizer) -> None:
    assert learnt.vocab_size == 350
    assert learnt.special_tokens["<|endoftext|>"] == 350 - 22
    assert learnt.special_tokens["<|file_sep|>"] == 349
    assert learnt.special_ids == frozenset(range(328, 342))
    assert learnt.eos_ids == (328, 330)


def test_the_same_texts_give_the_same_tokenizer(learnt: Tokenizer) -> None:
    again = learn_tokenizer(TEXTS, vocab_size=350)
    assert [again.token_bytes(i) for i in range(350)] == [learnt.token_bytes(i) for i in range(350)]
    assert [again.encode(text) for text in TEXTS] == [learnt.encode(text) for text in TEXTS]


@settings(max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_in_nfc(learnt: Tokenizer, text: str) -> None:
    import unicodedata

    assert learnt.decode(learnt.encode(text)) == unicodedata.normalize("NFC", text)


def test_it_has_learnt_words_and_keeps_digits_apart(learnt: Tokenizer) -> None:
    text = TEXTS[3]
    ids = learnt.encode(text)
    assert len(ids) < len(text.encode()) / 1.8
    tokens = [learnt.token_bytes(i).decode("utf-8", "replace") for i in range(328)]
    assert any(word in "".join(tokens) for word in WORDS)
    assert [learnt.decode([i]) for i in learnt.encode("123")] == ["1", "2", "3"]
    assert len(learnt.encode("<|im_end|>")) > 1
    assert learnt.encode("<|im_end|>", allow_special=True) == [330]


def test_it_encodes_as_the_library_that_learnt_it() -> None:
    """With merges that are all needed, qwell's loop and `tokenizers` agree."""
    learnt = learn_tokenizer(TEXTS, vocab_size=320)
    loop = [learnt.encode(text) for text in TEXTS]
    learnt._bpe._loop_chars = 0
    assert [learnt.encode(text) for text in TEXTS] == loop


def test_a_second_way_to_a_token_is_left_out() -> None:
    assert _first_merges([["a", "b"], ["ab", "c"], ["b", "c"], ["a", "bc"]]) == [
        "a b",
        "ab c",
        "b c",
    ]


def test_what_cannot_be_learnt_is_told() -> None:
    with pytest.raises(UsageError, match="278 tokens has no merges: give 279"):
        learn_tokenizer(TEXTS, vocab_size=278)
    with pytest.raises(DataError, match=r"give \d+ tokens, not 5,000"):
        learn_tokenizer(["a few words"], vocab_size=5000)


def test_saved_it_is_the_same_here_and_in_transformers(learnt: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    template = ChatTemplate.chatml()
    save_tokenizer(learnt, template, tmp_path / "t")
    mine = Tokenizer.from_folder(tmp_path / "t")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "t")
    for text in (*TEXTS[:3], "é e\u0301 日本 \n\n x", "<|im_start|>user\n<tool_call>"):
        assert mine.encode(text) == learnt.encode(text)
        special = mine.encode(text, allow_special=True)
        assert theirs.encode(text, add_special_tokens=False) == special
    assert len(theirs) == 350
    assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert mine.eos_ids == learnt.eos_ids
    chat = [{"role": "user", "content": "q"}]
    rendered = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == ChatTemplate(find_template(tmp_path / "t") or "").render(chat)
    assert rendered == template.render(chat)
    with pytest.raises(UsageError, match="not empty"):
        save_tokenizer(learnt, template, tmp_path / "t")
    save_tokenizer(learnt, template, tmp_path / "t", force=True)
