"""The tokenizer against tiktoken over the official ranks, and against its own stated rules."""

from __future__ import annotations

import threading
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell.errors import TextError
from qwell.text import Tokenizer
from qwell.text.bpe import LOOP_PIECE, Bpe, chunks
from qwell.text.vocabulary import Vocabulary
from tests.text import ranks
from tests.text.corpus import EMOJI, MARKS, ODDITIES, SPACES, is_old, mixed_text

Oracle = Callable[[str], list[int]]

old_text = st.text(st.characters(exclude_categories=["Cs", "Co", "Cn"]).filter(is_old))
rough_text = st.lists(
    st.sampled_from([*SPACES, *ODDITIES, *EMOJI, *MARKS, "a", "Z", "é", "한", "0"])
)
any_text = old_text | rough_text.map("".join)


def test_mixed_text_equals_tiktoken(tokenizer: Tokenizer, oracle: Oracle) -> None:
    text = mixed_text()
    normal = unicodedata.normalize("NFC", text)
    ids = tokenizer.encode(text)
    assert ids == oracle(normal)
    assert tokenizer.decode(ids) == normal


@settings(max_examples=300, deadline=None)
@given(text=any_text)
def test_any_text_equals_tiktoken(tokenizer: Tokenizer, oracle: Oracle, text: str) -> None:
    normal = unicodedata.normalize("NFC", text)
    ids = tokenizer.encode(text)
    assert ids == oracle(normal)
    assert tokenizer.decode(ids) == normal


def test_loop_equals_library(vocabulary: Vocabulary) -> None:
    bpe, text = Bpe(vocabulary), mixed_text()
    for start in range(0, len(text), 40_000):
        part = text[start : start + 4_000]
        looped = [i for piece in bpe.pieces(part) for i in bpe.merge(piece)]
        assert looped == bpe.encode_long(part)


def test_library_takes_over_from_the_loop(vocabulary: Vocabulary) -> None:
    """The ids do not tell which worker made them: neither the first, nor after a long piece."""
    long_piece = "ab" * LOOP_PIECE
    before, after = Tokenizer(vocabulary), Tokenizer(vocabulary)
    after.encode(long_piece + " and " * 20_000)
    for text in ("hello world", long_piece, "x " * 3000):
        assert before.encode(text) == after.encode(text)


@settings(max_examples=200, deadline=None)
@given(text=any_text, size=st.integers(1, 12))
def test_cuts_change_no_id(tokenizer: Tokenizer, oracle: Oracle, text: str, size: int) -> None:
    parts = list(chunks(text, size))
    assert "".join(parts) == text
    whole = oracle(unicodedata.normalize("NFC", text))
    assert [i for part in parts for i in oracle(unicodedata.normalize("NFC", part))] == whole


VECTORS = {
    "": "",
    "hello": "14990",
    "Hello world 12345": "9707 1879 220 16 17 18 19 20",
    " Hello world": "21927 1879",
    "I'll don't": "40 3278 1513 944",
    "你好，世界": "108386 3837 99489",
    "café": "924 58858",
    "cafe\u0301": "924 58858",
    "  \n  x": "2303 220 856",
    "!!!!!!!!": "50667",
    "def f(x):\n    return x\n": "750 282 2075 982 262 470 856 198",
    "\n\n# Tools\n\nYou may call one or more": "271 2 13852 271 2610 1231 1618 825 476 803",
    "system\n": "8948 198",
    "You are a helpful assistant.": "2610 525 264 10950 17847 13",
    "<tool_response>\n": "27 14172 9655 397",
    "\n</tool_response>": "198 522 14172 9655 29",
    "<|im_start|>": "27 91 318 4906 91 29",
    'print("<|endoftext|>")': "1350 9639 91 8691 723 427 91 82598",
}


@pytest.mark.parametrize("text", VECTORS, ids=repr)
def test_known_ids(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == [int(i) for i in VECTORS[text].split()]


def test_special_tokens_need_leave(tokenizer: Tokenizer) -> None:
    text = 'print("<|endoftext|>")'
    assert tokenizer.encode(text, allow_special=True) == [1350, 445, 151643, 899]
    for spelling, i in ranks.ADDED.items():
        assert tokenizer.encode(spelling, allow_special=True) == [i]
        assert i not in tokenizer.encode(f"x{spelling}y")
        assert tokenizer.decode([i]) == spelling
    assert tokenizer.special_tokens == ranks.ADDED


def test_special_tokens_touch_each_other(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<<|im_start|><|im_end|><tool_call>|>", allow_special=True)
    assert ids == [27, 151644, 151645, 151657, 91, 29]


def test_skip_special_keeps_visible_tokens(tokenizer: Tokenizer) -> None:
    text = "<|im_start|>a<tool_call>b<|fim_prefix|>c<|endoftext|>"
    ids = tokenizer.encode(text, allow_special=True)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special=True) == "a<tool_call>b<|fim_prefix|>c"


def test_sizes_and_ends(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 151_665
    assert tokenizer.eos_ids == (151643, 151645)
    assert tokenizer.special_ids == frozenset(range(151643, 151657))


def test_token_bytes_are_the_ranks(tokenizer: Tokenizer) -> None:
    for token, rank in ranks.ranks().items():
        assert tokenizer.token_bytes(rank) == token
    assert tokenizer.token_bytes(151_644) == b"<|im_start|>"


def test_padding_rows_are_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(151_665) == tokenizer.token_bytes(152_063) == b""
    assert tokenizer.decode([14990, 151_935]) == "hello"


def test_negative_id_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextError, match="-1 is negative"):
        tokenizer.decode([-1])


@pytest.mark.parametrize("allow_special", [False, True])
def test_lone_surrogate_is_refused_by_place(tokenizer: Tokenizer, allow_special: bool) -> None:
    with pytest.raises(TextError, match=r"U\+D83D at character 3") as fault:
        tokenizer.encode("abc\ud83d", allow_special=allow_special)
    assert "\n" not in str(fault.value)


def test_decode_replaces_what_is_no_utf8(tokenizer: Tokenizer) -> None:
    first = tokenizer.encode("\u00c3")[0]
    assert tokenizer.token_bytes(188) == b"\x00"
    assert tokenizer.decode([ranks.ranks()[b"\xe4"]]) == "\ufffd"
    assert tokenizer.decode([first]) == "Ã"


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 151_700)))
def test_decode_is_the_bytes(tokenizer: Tokenizer, ids: list[int]) -> None:
    raw = b"".join(tokenizer.token_bytes(i) for i in ids)
    assert tokenizer.decode(ids) == raw.decode("utf-8", errors="replace")


HARD = {
    "one letter": "a",
    "two letters": "ab",
    "spaces": " ",
    "newlines": "\n",
    "space and newline": " \n",
    "punctuation": "!",
    "quotes": "'",
    "digits": "0",
    "combining marks": "\u0323\u0301",
    "jamo": "\u1100",
    "spaces before a letter": " " * 999 + "x",
    "emoji": EMOJI[2],
    "han": "漢",
    "control tokens": "<|im_start|>",
    "broken control tokens": "<|im_",
}


@pytest.mark.parametrize("name", HARD)
def test_time_is_linear(tokenizer: Tokenizer, name: str) -> None:
    """Four times the text takes about four times as long: at most eight with a noisy clock."""
    tokenizer.encode("warm " * 20_000)

    def seconds(size: int) -> float:
        text = (HARD[name] * (size // len(HARD[name]) + 1))[:size]
        start = time.process_time()
        tokenizer.encode(text, allow_special=True)
        return time.process_time() - start

    small = min(seconds(50_000) for _ in range(3))
    assert seconds(200_000) < 8 * small + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a", "The quick brown fox. "])
def test_ten_megabytes(tokenizer: Tokenizer, unit: str) -> None:
    text = unit * (10_000_000 // len(unit))
    start = time.perf_counter()
    ids = tokenizer.encode(text)
    assert time.perf_counter() - start < 60
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("unit", ["a", "\u7684\u4e00\u662f"])
def test_a_text_without_places_to_cut_lets_other_threads_run(
    tokenizer: Tokenizer, unit: str
) -> None:
    """A server writes its streams meanwhile."""
    tokenizer.encode("a" * 100_000)  # the library is there
    turns, is_over = 0, threading.Event()

    def count() -> None:
        nonlocal turns
        while not is_over.wait(0.001):
            turns += 1

    other = threading.Thread(target=count)
    other.start()
    try:
        tokenizer.encode(unit * (1_500_000 // len(unit)))
    finally:
        is_over.set()
        other.join()
    assert turns > 20


def test_saved_form_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    again = Tokenizer.from_file(path)
    text = mixed_text()[:100_000]
    assert again.encode(text) == tokenizer.encode(text)
    assert again.special_tokens == tokenizer.special_tokens
    assert (again.eos_ids, again.special_ids) == (tokenizer.eos_ids, tokenizer.special_ids)
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
