"""Documents to rows: nothing lost, nothing twice, no row too long, and a run that goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell.data.example import Example, example
from qwell.data.mixture import Mixture
from qwell.data.packing import PackedRows, PackingReport, admitted, best_fit, every, to_rows
from qwell.data.rows import Rows, RowSource
from qwell.data.sources import pretrain_rows, sft_rows
from qwell.data.survey import survey
from qwell.errors import DataError, UsageError
from qwell.text import ChatTemplate
from tests.data.small import small_tokenizer, write_lines

TOKENIZER = small_tokenizer()
EOS = TOKENIZER.special_tokens["<|endoftext|>"]


class Numbered:
    """Documents of the given lengths; every token of document i is 1000 * i + its place."""

    def __init__(self, lengths: Sequence[int], start: int = 0) -> None:
        self._lengths, self._start = lengths, start
        self.blocks = [len(lengths)]

    def __len__(self) -> int:
        return len(self._lengths)

    def encode(self, at: int, epoch: int) -> Example:
        ids = [1000 * (self._start + at) + t for t in range(self._lengths[at])]
        return example(ids, None, f"document {self._start + at}")


def packed(lengths: Sequence[int], size: int, **how: Any) -> PackedRows:
    overlong = how.pop("overlong", "split")
    return PackedRows(Mixture([Numbered(lengths)], **how), tokens_per_row=size, overlong=overlong)


def documents(rows: Rows) -> list[list[int]]:
    return [rows.input_ids[a:b].tolist() for a, b in zip(rows.row_splits, rows.row_splits[1:])]


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=60), size=st.integers(2, 20))
def test_one_pass_learns_every_token_once(lengths: list[int], size: int) -> None:
    found = list(packed(lengths, size).one_pass())
    assert all(rows.num_tokens <= size for rows in found)
    learnt = [int(t) for rows in found for t in rows.targets]
    assert len(learnt) == len(set(learnt))
    assert set(learnt) == {1000 * i + t for i, n in enumerate(lengths) for t in range(1, n)}
    for rows in found:
        for document in documents(rows):
            assert document == list(range(document[0], document[0] + len(document)))
        starts = set(rows.row_splits[:-1].tolist())
        assert [bool(t) for t in rows.is_target] == [
            t not in starts for t in range(rows.num_tokens)
        ]


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_best_fit_against_its_definition(lengths: list[int]) -> None:
    size, taken, room = 20, [0], 20 - lengths[0]
    while True:
        fitting = [i for i in range(len(lengths)) if i not in taken and lengths[i] <= room]
        if not fitting:
            break
        taken.append(max(fitting, key=lambda i: (lengths[i], -i)))
        room -= lengths[taken[-1]]
    assert best_fit(lengths, size) == taken


def test_rows_are_full_and_no_document_waits_for_ever() -> None:
    rng = np.random.default_rng(0)
    source = packed(rng.integers(5, 200, 3000).tolist(), 512)
    seen: list[int] = []
    for rows in islice(source, 500):
        seen += [document[0] // 1000 for document in documents(rows)]
    assert source.fill > 0.99
    first = [source.mixture._orders[0](0, k) for k in range(200)]
    assert set(first) <= set(seen)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=3, max_size=30),
    stop=st.integers(0, 12),
    seed=st.integers(0, 3),
)
def test_a_restored_source_goes_on_with_the_next_row(
    lengths: list[int], stop: int, seed: int
) -> None:
    lengths = [*lengths, 5]
    straight = packed(lengths, 16, seed=seed)
    whole = [documents(rows) for rows in islice(straight, stop + 8)]
    first = packed(lengths, 16, seed=seed)
    begun = [documents(rows) for rows in islice(first, stop)]
    state = json.loads(json.dumps(first.state()))
    second = packed(lengths, 16, seed=seed)
    second.restore(state)
    assert begun + [documents(rows) for rows in islice(second, 8)] == whole
    assert second.state() == straight.state()
    assert second.report == straight.report
    assert begun + [documents(rows) for rows in islice(first, 8)] == whole, "iter() goes on"


def test_a_state_of_other_data_is_refused() -> None:
    state = packed([5, 6, 7], 16).state()
    with pytest.raises(DataError, match=r"documents \[3\] then, \[4\] now"):
        packed([5, 6, 7, 8], 16).restore(state)
    with pytest.raises(DataError, match="tokens_per_row 16, not 32"):
        packed([5, 6, 7], 32).restore(state)
    with pytest.raises(DataError, match=r"another order \(format 1, now 2\)"):
        packed([5, 6, 7, 8], 16).restore(state | {"format": 1})
    with pytest.raises(DataError, match="the run began with overlong split"):
        packed([5, 6, 7], 16, overlong="drop").restore(state)
    with pytest.raises(DataError, match="seed 0 then, 1 now"):
        packed([5, 6, 7], 16, seed=1).restore(state)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.7, 0.3], [5, 1]])
def test_a_mixture_has_its_shares_of_tokens_at_every_moment(weights: list[float]) -> None:
    sources = [Numbered([20] * 10), Numbered([3, 7, 31] * 40, start=100)]
    mixture = Mixture(sources, weights)
    tokens = [0, 0]
    for _ in range(400):
        address, found = mixture.next()
        tokens[address.source] += len(found)
        share = [t / w for t, w in zip(tokens, weights)]
        assert abs(share[0] - share[1]) * min(weights) <= 31
    with pytest.raises(UsageError, match="1 weights for 2"):
        Mixture(sources, [1.0])
    with pytest.raises(UsageError, match="above 0"):
        Mixture(sources, [1.0, 0.0])
    with pytest.raises(DataError, match="no document"):
        Mixture([Numbered([])])


def test_without_weights_an_epoch_is_every_document_once() -> None:
    mixture = Mixture([Numbered([4] * 7), Numbered([9] * 5, start=7)], seed=3)
    for _ in range(3):
        epoch = [mixture.next()[1].place for _ in range(12)]
        assert len(set(epoch)) == 12
    assert mixture.epoch == 3


def test_overlong_documents_are_split_refused_or_dropped_and_counted() -> None:
    lengths = [40, 6, 1, 33, 5]
    report = PackingReport()
    for i in range(5):
        admitted(Numbered(lengths).encode(i, 0), 16, "split", report)
    assert (report.documents, report.split, report.untargeted) == (5, 2, 1)
    assert report.places == [
        "document 0: split, 40 tokens",
        "document 2: untargeted, 1 tokens",
        "document 3: split, 33 tokens",
    ]
    with pytest.raises(DataError, match=r"document \d+: has \d\d tokens, but a row holds 16"):
        list(islice(packed(lengths, 16, overlong="refuse"), 1))
    rows = packed(lengths, 16, overlong="drop")
    found = Counter(d[0] // 1000 for r in rows.one_pass() for d in documents(r))
    assert found == {1: 1, 4: 1}
    list(islice(rows, 3))
    assert rows.report.dropped > 0
    with pytest.raises(DataError, match=r"no document can be learnt from.* document 0: unt"):
        list(islice(packed([1, 1], 16, shuffle=False), 1))


def test_processes_share_the_rows_between_them() -> None:
    lengths = [3, 5, 7, 9, 4, 8]
    whole = [documents(rows) for rows in islice(packed(lengths, 10), 12)]
    ranks = [every(packed(lengths, 10), rank, 2) for rank in (0, 1)]
    parts = [[documents(rows) for rows in islice(source, 6)] for source in ranks]
    assert [row for pair in zip(*parts) for row in pair] == whole
    assert ranks[0].state() == ranks[1].state()
    resumed: RowSource = every(packed(lengths, 10), 1, 2)
    before = every(packed(lengths, 10), 0, 2)
    list(islice(before, 3))
    resumed.restore(before.state())
    assert [documents(rows) for rows in islice(resumed, 3)] == whole[7::2]
    with pytest.raises(UsageError, match="rank 2"):
        every(packed(lengths, 10), 2, 2)


def test_a_survey_counts_or_estimates() -> None:
    lengths = [3, 5, 7, 40, 4] * 20
    found = survey(packed(lengths, 16))
    assert (found.documents, found.tokens, found.overlong) == (100, 20 * 59, 20)
    assert (found.targets, found.longest, found.longest_place) == (20 * 54, 40, "document 3")
    assert not found.is_estimate
    found = survey(packed(lengths, 16, overlong="drop"), limit=50)
    assert found.is_estimate
    assert abs(found.tokens - 20 * 19) < 60
    assert abs(found.overlong - 20) <= 10
    with pytest.raises(DataError, match="every document is longer"):
        survey(packed([40], 16, overlong="drop"))


def test_a_survey_leaves_out_what_teaches_nothing() -> None:
    """A document of one token becomes no row, so it must not add to the steps of an epoch."""
    assert survey(packed([5, 1, 7, 1], 16)).tokens == 12
    with pytest.raises(DataError, match="no document holds a token to learn"):
        survey(packed([1, 1], 16))


def texts_of(rows: Iterator[Rows]) -> list[str]:
    return [TOKENIZER.decode(d) for r in rows for d in documents(r)]


def test_pre_training_rows_from_files(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"content": f"line {i} <|im_end|>"} for i in range(6)])
    (tmp_path / "b.txt").write_text("the text")
    paths = [tmp_path / "a.jsonl", tmp_path / "b.txt"]
    rows = pretrain_rows(paths, TOKENIZER, tokens=64)
    expected = [f"line {i} <|im_end|><|endoftext|>" for i in range(6)] + ["the text<|endoftext|>"]
    assert sorted(texts_of(rows.one_pass())) == sorted(expected)
    ids = {int(i) for r in rows.one_pass() for i in r.input_ids}
    assert TOKENIZER.special_tokens["<|im_end|>"] not in ids
    for bad, what in (({"txt": "a"}, "has no text or content"), ({"text": 3}, "is not text")):
        write_lines(tmp_path / "c.jsonl", [bad])
        with pytest.raises(DataError, match=rf"c\.jsonl:1: .*{what}"):
            list(pretrain_rows([tmp_path / "c.jsonl"], TOKENIZER, tokens=64).one_pass())


def test_conversations_from_files_of_different_formats(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "one"}]
    write_lines(tmp_path / "a.jsonl", [{"messages": turns}] * 3)
    write_lines(tmp_path / "b.jsonl", [{"instruction": "q", "output": "two"}] * 2)
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    rows = sft_rows(paths, TOKENIZER, ChatTemplate.chatml(), tokens=256)
    learnt = Counter(TOKENIZER.decode([int(t)]) for r in rows.one_pass() for t in r.targets)
    assert learnt["<|im_end|>"] == 5
    assert rows.num_documents == 5
    with pytest.raises(DataError, match=r"a\.jsonl:1: has \d+ tokens, but a row holds 64"):
        list(sft_rows(paths, TOKENIZER, ChatTemplate.chatml(), tokens=64).one_pass())


def test_rows_of_documents_end_to_end() -> None:
    made = to_rows([Numbered([3]).encode(0, 0), Numbered([2]).encode(0, 0)])
    assert made.row_splits.tolist() == [0, 3, 5]
    assert made.row_splits.dtype == np.int32
