"""Stop strings: however the text is cut into pieces, the result is that of reading characters."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwell.engine.stops import StopStrings
from qwell.engine.types import SamplingParams
from tests.engine.tiny import byte_ids, make_llm, make_tokenizer, replying


def slow(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition: the first end of a stop string, and of those ending there the longest."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def fed(pieces: list[str], stops: list[str]) -> tuple[list[str], str | None]:
    finder, shown = StopStrings(stops), []
    for piece in pieces:
        text, stop = finder.push(piece)
        shown.append(text)
        if stop is not None:
            return shown, stop
    return [*shown, finder.flush()], None


def splits(text: str) -> list[list[str]]:
    """Every way to cut the text into pieces."""
    places = range(1, len(text))
    cuts = [c for n in range(len(text)) for c in combinations(places, n)]
    return [[text[a:b] for a, b in zip((0, *c), (*c, len(text)), strict=True)] for c in cuts]


@given(
    st.text("ab", max_size=7),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_every_split_gives_the_same(text: str, stops: list[str]) -> None:
    expected = slow(text, stops)
    for pieces in splits(text):
        shown, stop = fed(pieces, stops)
        assert ("".join(shown), stop) == expected
        # What was shown early is a beginning of the reply: nothing of a stop string leaked.
        for n in range(len(shown)):
            assert expected[0].startswith("".join(shown[:n]))


def test_text_is_held_back_only_while_it_may_become_a_stop() -> None:
    finder = StopStrings(["\n\nUser:", "###"])
    assert finder.push("Hello\n") == ("Hello", None)
    assert finder.push("World\n\n") == ("\nWorld", None)
    assert finder.push("Us") == ("", None)
    assert finder.push("ing ##") == ("\n\nUsing ", None)
    assert finder.push("#!") == ("", "###")


def test_the_stop_that_ends_first_wins_and_then_the_longest() -> None:
    assert fed(["abcd"], ["abcd", "bc"]) == (["a"], "bc")
    assert fed(["abcd"], ["cd", "bcd"]) == (["a"], "bcd")


@pytest.mark.parametrize("stop", ["cst", "bcs", "stop", "x", "zz", "abca", "c"])
def test_a_reply_in_every_tokenisation(stop: str) -> None:
    """All ways to spell a text with the tokens of the vocabulary, through a whole engine."""
    text = "xabcstop"
    expected, reason = slow(text, [stop])
    for ids in spellings(text):
        llm = make_llm(replying(ids, prompt=1))
        pieces = list(llm.stream([0], stop=stop))
        done = pieces[-1].completion
        assert done is not None
        assert done.text == expected == "".join(piece.text for piece in pieces)
        assert (done.finish_reason, done.stop_reason) == ("stop", reason)
        assert done.token_ids == tuple(i for piece in pieces for i in piece.token_ids)


def spellings(text: str) -> list[list[int]]:
    tokenizer = make_tokenizer()
    known = {tokenizer.token_bytes(i).decode("latin-1"): i for i in range(262)}

    def ways(rest: str) -> list[list[int]]:
        if not rest:
            return [[]]
        heads = [n for n in range(1, len(rest) + 1) if rest[:n] in known]
        return [[known[rest[:n]], *tail] for n in heads for tail in ways(rest[n:])]

    found = ways(text)
    assert len(found) > 10
    return found


@pytest.mark.parametrize(
    ("stop", "min_tokens", "text"),
    [("stop", 4, "stop and "), ("p", 4, "stop and sto"), ("p", 3, "sto"), ("stop", 3, "stop and ")],
)
def test_stop_strings_wait_for_min_tokens(stop: str, min_tokens: int, text: str) -> None:
    """Text of the first min_tokens tokens is not looked at."""
    llm = make_llm(replying(byte_ids("stop and stop it"), prompt=1))
    params = SamplingParams(temperature=0, stop=(stop,), min_tokens=min_tokens)
    assert llm.generate([0], params).text == text


def test_held_text_is_shown_when_the_reply_ends_otherwise() -> None:
    ids = byte_ids("so st")
    for options, reason in (({}, "stop"), ({"max_tokens": len(ids)}, "length")):
        done = make_llm(replying(ids, prompt=1)).generate([0], stop="stop", **options)
        assert (done.text, done.finish_reason, done.stop_reason) == ("so st", reason, None)
