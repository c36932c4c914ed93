"""Cleaning: each step against its slow twin, and a report that leaves nothing out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell.data import duplicates
from qwell.data.clean import CleaningReport, clean, said
from qwell.data.decontaminate import Contamination, common_subsequence, needed
from qwell.data.duplicates import exact_duplicates, near_duplicates, shingles, similarity
from qwell.data.folder import open_records
from qwell.data.records import Record
from qwell.data.repair import repaired, repaired_value
from qwell.errors import DataError
from tests.data.small import small_tokenizer, write_lines

TOKENIZER = small_tokenizer()
ids = st.lists(st.integers(0, 5), max_size=24)


@pytest.mark.parametrize(
    ("broken", "right"),
    [
        ("donâ€™t", "don’t"),
        ("schÃ¶n", "schön"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("bell\x07", "bell"),
        ("pair \ud83d\ude00", "pair 😀"),
    ],
)
def test_faults_are_repaired(broken: str, right: str) -> None:
    assert repaired(broken) == right
    assert repaired_value({"k": [broken, 1, None]}) == {"k": [right, 1, None]}


@pytest.mark.parametrize(
    "text", ["“curly” quotes", "&lt;b&gt; &amp;", "ﬁne ligature", "ＷＩＤＥ", "e\u0301", "x\t\n y "]
)
def test_what_is_meant_stays(text: str) -> None:
    assert repaired(text) is text


def longest_common(a: list[int], b: list[int]) -> int:
    """The slow, obvious twin."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else best
    return table[-1][-1]


@settings(max_examples=300)
@given(a=ids, b=ids)
def test_the_common_subsequence_against_its_table(a: list[int], b: list[int]) -> None:
    assert common_subsequence(a, b) == longest_common(a, b)


@settings(max_examples=150, deadline=None)
@given(
    document=st.lists(st.integers(0, 30), max_size=40),
    tests=st.lists(st.lists(st.integers(0, 30), max_size=40), max_size=6),
    spliced=st.integers(0, 40),
)
def test_the_rule_loses_nothing_to_its_index(
    document: list[int], tests: list[list[int]], spliced: int
) -> None:
    """Short documents are compared whole: the report's rule itself, pair by pair."""
    if tests:
        document = [*tests[0][:spliced], *document][:40]
    found = Contamination(tests).find(document)
    lengths = [longest_common(document, test) for test in tests]
    by_rule = {
        i
        for i, (test, length) in enumerate(zip(tests, lengths))
        if length >= 13 and length >= 0.6 * min(len(document), len(test))
    }
    inside = {i for i in by_rule if len(document) <= 2 * len(tests[i])}
    if inside:
        assert found
    if found:
        assert found.test in by_rule or len(document) > 2 * len(tests[found.test])


@pytest.mark.parametrize("start", [0, 1, 63, 64, 500, 1937])
def test_a_test_inside_a_long_document_is_found_and_chance_is_not(start: int) -> None:
    rng = np.random.default_rng(start)
    test = rng.integers(0, 2000, 60).tolist()
    document = rng.integers(0, 2000, 2000).tolist()
    index = Contamination([rng.integers(0, 2000, 60).tolist(), test])
    assert index.find(document) is None
    changed = [t if i % 4 else 9999 for i, t in enumerate(test)]  # three quarters of it
    found = index.find([*document[:start], *changed, *document[start:]])
    assert found
    assert (found.test, found.length >= 45) == (1, True)
    assert found.start <= start < found.start + 128


def test_the_rule_is_that_of_the_report() -> None:
    assert [needed(a, b) for a, b in ((20, 20), (21, 100), (22, 100), (25, 30), (100, 200))] == [
        13, 13, 14, 15, 60
    ]  # fmt: skip
    same = list(range(13))
    assert Contamination([same]).find(same)
    assert Contamination([same]).find(same[:12]) is None
    assert Contamination([same[:12]]).find(same) is None


SENTENCE = "the a model reads text and learns what comes next in order of one two three"
WORDS = SENTENCE.split()
text_of_words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=60)


def jaccard(a: list[str], b: list[str]) -> float:
    """By the definition, over sets of word tuples."""
    one, two = (
        {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))} for words in (a, b)
    )
    return len(one & two) / len(one | two)


@settings(max_examples=150)
@given(a=text_of_words, b=text_of_words, cut=st.integers(0, 60))
def test_similarity_against_its_definition(a: list[str], b: list[str], cut: int) -> None:
    b = a[:cut] + b
    found = similarity(shingles(" ".join(a)), shingles(", ".join(b).upper()))
    assert found == pytest.approx(jaccard(a, b))


def test_near_duplicates_against_all_pairs() -> None:
    """600 texts in families of rising likeness: all pairs above the threshold, none below."""
    rng = np.random.default_rng(5)
    texts = []
    for _ in range(100):
        base = [f"w{i}" for i in rng.integers(0, 400, 120)]
        for edits in (0, 1, 2, 4, 8, 16):
            words = list(base)
            for at in rng.integers(0, 120, edits):
                words[at] = "edited"
            texts.append(words)
    order = rng.permutation(len(texts))
    texts = [texts[i] for i in order]
    slow, kept = {}, []
    sets = [shingles(" ".join(words)) for words in texts]
    for at, mine in enumerate(sets):
        near = [other for other in kept if similarity(mine, sets[other]) >= 0.8]
        if near:
            slow[at] = near
        else:
            kept.append(at)
    found = {d.at: d.first for d in near_duplicates([" ".join(words) for words in texts])}
    assert len(slow) > 150
    assert found.keys() <= slow.keys()
    assert len(slow.keys() - found.keys()) <= 1, "one in 500 may be missed"
    assert all(found[at] in slow[at] for at in found)


def test_text_without_spaces_has_words_too() -> None:
    """A whole clause was one: of two Chinese texts one of which had two characters changed, 60 % of
    the shingles were the same, where the same change in English leaves more than 90 %."""
    rng = np.random.default_rng(3)
    one = "".join(map(chr, rng.integers(0x4E00, 0x9FFF, 130)))
    two, other = one[:60] + "重大" + one[62:], one[::-1]
    assert similarity(shingles(one), shingles(two)) > 0.9
    assert [(d.at, d.first) for d in near_duplicates([one, other, two])] == [(2, 0)]
    mixed = shingles("Qwen模型 is かな")
    assert np.array_equal(mixed, shingles("qwen 模 型 is か な"))


def test_texts_without_words_and_exact_repeats() -> None:
    texts = ["+++", " +++\n", "---", "a b", "a  b", "a b"]
    assert [(d.at, d.first) for d in exact_duplicates(texts)] == [(1, 0), (5, 3)]
    assert [(d.at, d.first) for d in near_duplicates(texts)] == [(1, 0), (4, 3), (5, 3)]
    assert duplicates.BANDS * duplicates.ROWS == 120


def test_a_cleaning_says_what_it_did(tmp_path: Path) -> None:
    question = "How many apples does the girl have when she gives three of ten to a friend of hers?"
    story = " ".join(f"word{i}" for i in range(60))
    values = [
        {"text": "schÃ¶n", "id": 1},
        {"text": "  \n"},
        {"text": story},
        {"text": story + "\n"},
        {"text": story + " more"},
        {"text": "x " + question + " y"},
        {"text": "fine"},
    ]
    path = write_lines(tmp_path / "a.jsonl", values)
    told: list[str] = []
    left, report = clean(
        open_records(path).records,
        tests=[question],
        tokenizer=TOKENIZER,
        progress=lambda step, done, total: told.append(step),
    )
    assert [left[i].value for i in range(len(left))] == [
        {"text": "schön", "id": 1}, {"text": story}, {"text": "fine"}
    ]  # fmt: skip
    steps = {step.name: (step.seen, step.changed, step.dropped) for step in report.steps}
    assert steps == {
        "repair": (7, 1, 0),
        "empty": (7, 0, 1),
        "exact duplicates": (6, 0, 1),
        "near duplicates": (5, 0, 1),
        "test data": (4, 0, 1),
    }
    assert (report.seen, report.kept) == (7, 3)
    assert set(told) == set(steps)
    examples = {step.name: step.examples[0] for step in report.steps}
    assert examples["repair"] == f"{path}:1: 'schÃ¶n' -> 'schön'"
    assert examples["empty"] == f"{path}:2"
    assert examples["exact duplicates"].startswith(f"{path}:4 repeats {path}:3: 'word0 word1")
    assert "(98% alike)" in examples["near duplicates"]
    assert question in examples["test data"]
    left.save(tmp_path / "out.jsonl")
    report.save(tmp_path / "report.json")
    again = open_records(tmp_path / "out.jsonl").records
    assert [again[i].value for i in range(3)] == [left[i].value for i in range(3)]
    assert json.loads((tmp_path / "report.json").read_text())["kept"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "out.jsonl", "report.json"]


def test_a_repair_beside_a_nan_is_told(tmp_path: Path) -> None:
    """A NaN is not equal to itself: it was taken for what had been repaired."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"score": NaN, "all": [NaN], "text": "bell\\u0007"}\n')
    _, report = clean(open_records(path).records)
    assert report.steps[0].changed == 1
    assert report.steps[0].examples == [f"{path}:1: 'bell\\x07' -> 'bell'"]


def test_conversations_are_compared_by_what_is_said(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    values = [
        {"messages": turns, "id": 1},
        {"messages": [{"role": "system", "content": "s"}, *turns], "id": 2},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "b"}]},
    ]
    left, report = clean(open_records(write_lines(tmp_path / "a.jsonl", values)).records)
    assert [left[i].value.get("id") for i in range(len(left))] == [1, None]
    assert isinstance(report, CleaningReport)
    assert said(Record({"instruction": "i", "output": "o"}, "")) == "i\no"
    with pytest.raises(DataError, match="no conversation in a known format"):
        said(Record({"x": 1}, "f:1"))
    with pytest.raises(ValueError, match="tokenizer"):
        clean(left, tests=["a"])
