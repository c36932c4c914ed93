"""Each fault a data set can have is found, with the row; sound data has no findings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qwell.data.doctor import (
    check_rows,
    check_untrained,
    overlap,
    template_drift,
    untrained_ids,
)
from qwell.data.folder import open_records
from qwell.data.packing import PackedRows
from qwell.data.records import Records
from qwell.data.sources import sft_rows
from qwell.text import ChatTemplate
from tests.data.small import small_tokenizer, write_lines

TOKENIZER = small_tokenizer()
TEMPLATE = ChatTemplate.chatml()
NO_END = ChatTemplate(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)


def chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    reply = {"role": "assistant", "content": answer, **more}
    return {"messages": [{"role": "user", "content": question}, reply]}


def rows_of(
    path: Path, values: list[Any], template: ChatTemplate = TEMPLATE, **how: Any
) -> PackedRows:
    write_lines(path, values)
    return sft_rows([path], TOKENIZER, template, **{"tokens": 200, **how})


def records_of(path: Path, values: list[Any]) -> Records:
    return open_records(write_lines(path, values)).records


class Matrix:
    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values, self.shape = values, values.shape

    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        return self.values[start:stop]


def embedding(untrained: list[str], *, padding: int) -> Matrix:
    """Random rows; those untrained and the padding are the same but for a thousandth."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(TOKENIZER.vocab_size + padding, 32)).astype(np.float32)
    never = [TOKENIZER.special_tokens[t] for t in untrained]
    never += range(TOKENIZER.vocab_size, TOKENIZER.vocab_size + padding)
    values[never] = rng.normal(size=32) + 1e-3 * rng.normal(size=(len(never), 32))
    return Matrix(values)


@pytest.mark.parametrize("padding", [0, 6])
def test_rows_no_training_told_apart_are_found(padding: int) -> None:
    never = ["<|im_start|>", "<|im_end|>"]
    found = untrained_ids(embedding(never, padding=padding), TOKENIZER)
    assert found == {TOKENIZER.special_tokens[t] for t in never}
    assert untrained_ids(embedding([], padding=0), TOKENIZER) == frozenset()
    if padding:
        assert untrained_ids(embedding(never[1:], padding=1), TOKENIZER)


def test_a_row_of_zeros_is_untrained() -> None:
    matrix = embedding([], padding=0)
    matrix.values[TOKENIZER.special_tokens["<|im_end|>"]] = 0
    matrix.values[TOKENIZER.special_tokens["<|fim_pad|>"]] = 0
    assert len(untrained_ids(matrix, TOKENIZER)) == 2


def test_an_untrained_end_is_an_error_and_the_row_is_shown(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.jsonl", [chat("q", "a"), chat("q", "b")])
    never = ["<|im_start|>", "<|im_end|>", "<|fim_pad|>"]
    found = check_untrained(embedding(never, padding=4), TOKENIZER, rows)
    assert [(f.level, f.count, f.message.split(" is ")[0]) for f in found] == [
        ("warning", 2, "<|im_start|>"),
        ("error", 2, "<|im_end|>"),
    ]
    assert "assistant\n[[a<|im_end|>]]\n" in found[1].shown or "[[b" in found[1].shown
    assert check_untrained(embedding([], padding=4), TOKENIZER, rows) == []


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.jsonl", [chat("q", "a")])
    end = TOKENIZER.special_tokens["<|im_end|>"]
    for num_rows in (end, 100):  # the last of the chat's tokens has none; no added token has one
        found = check_untrained(Matrix(embedding([], padding=0).values[:num_rows]), TOKENIZER, rows)
        assert (found[-1].level, found[-1].message.split(" is ")[0]) == ("error", "<|im_end|>")
        assert "has no row for it" in found[-1].message


def test_sound_conversations_have_no_findings(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.jsonl", [chat("q", "a")] * 3)
    assert check_rows(rows, TOKENIZER) == []


def test_a_turn_that_does_not_learn_to_end(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.jsonl", [chat("q", "a")] * 3, NO_END)
    (found,) = check_rows(rows, TOKENIZER)
    assert (found.name, found.level, found.count) == ("no end token", "error", 3)
    assert found.message.startswith(f"{tmp_path / 'a.jsonl'}:1: a learnt turn does not end")
    assert found.message.endswith(", and 2 more")
    assert "assistant\n[[a]]" in found.shown


def test_empty_targets_wrong_records_and_overlong_rows(tmp_path: Path) -> None:
    values = [
        chat("q", "a", weight=0),
        chat("q", "long " * 60),
        {"messages": [{"role": "boss", "content": "q"}]},
        chat("q", "a"),
    ]
    rows = rows_of(tmp_path / "a.jsonl", values)
    found = {f.name: f for f in check_rows(rows, TOKENIZER)}
    assert {name: f.count for name, f in found.items()} == {
        "empty targets": 1,
        "over-long row": 1,
        "wrong record": 1,
    }
    assert found["over-long row"].level == "error"
    assert "a.jsonl:2" in found["over-long row"].message
    assert "'boss'" in found["wrong record"].message
    assert "a.jsonl:3" in found["wrong record"].message
    dropped = rows_of(tmp_path / "a.jsonl", values, overlong="drop")
    levels = {f.name: f.level for f in check_rows(dropped, TOKENIZER)}
    assert levels["over-long row"] == "warning"
    assert sum(f.count for f in check_rows(rows, TOKENIZER, limit=2)) <= 2


def test_templates_that_differ_in_writing_only_are_the_same() -> None:
    assert template_drift(TEMPLATE, ChatTemplate(TEMPLATE.source)) == []
    assert template_drift(TEMPLATE, ChatTemplate("{# c #}" + TEMPLATE.source)) == []


def test_a_template_that_differs_is_shown() -> None:
    other = ChatTemplate(TEMPLATE.source.replace("created by", "made by"))
    (found,) = template_drift(TEMPLATE, other, names=("served", "learnt"))
    assert (found.name, found.level) == ("template drift", "error")
    assert "a question without a system message" in found.message
    assert "made by" in found.shown.split("learnt: ")[1]
    assert "created by" in found.shown.split("learnt: ")[0]
    broken = ChatTemplate("{{ raise_exception('no') }}")
    assert "refused: " in template_drift(TEMPLATE, broken)[0].shown


def test_test_questions_in_training_are_found(tmp_path: Path) -> None:
    story = "A farmer has seven sheep and buys four more sheep at the market on Monday. How many?"
    train = records_of(
        tmp_path / "train.jsonl",
        [
            chat("two plus two?", "4"),
            chat(story.replace("seven", "nine") + " Say.", "13"),
            chat("something else entirely that nobody has ever asked before, in many words", "1"),
        ],
    )
    test = records_of(
        tmp_path / "test.jsonl", [chat("two plus two?", "four"), chat(story, "11"), chat("x", "y")]
    )
    found = {f.name: f for f in overlap(train, test, TOKENIZER)}
    assert {n: (f.level, f.count) for n, f in found.items()} == {
        "test question in training": ("error", 1),
        "test text in training": ("warning", 1),
    }
    same = found["test question in training"]
    assert same.message == (
        f"{tmp_path / 'train.jsonl'}:1 asks what {tmp_path / 'test.jsonl'}:1 asks"
    )
    assert "two plus two?" in same.shown
    assert "train.jsonl:2" in found["test text in training"].message
    assert [f.name for f in overlap(train, test, TOKENIZER, limit=1)] == [same.name]
    assert overlap(records_of(tmp_path / "c.jsonl", [chat("x?", "y")]), test, TOKENIZER) == []


@pytest.mark.weights
def test_the_official_model_has_learnt_its_ends_and_never_saw_a_tool_call(
    official_gguf: Any,
) -> None:
    from qwell.checkpoint import open_checkpoint
    from qwell.engine.load import load_tokenizer

    tokenizer = load_tokenizer("qwen2.5-coder:0.5b")
    tensors = open_checkpoint((official_gguf("0.5b"),)).tensors
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        found = untrained_ids(tensors[name], tokenizer)
        names = {text for text, i in tokenizer.special_tokens.items() if i in found}
        trained = set(tokenizer.special_tokens) - names
        assert {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_middle|>"} <= trained
        assert {"<tool_call>", "</tool_call>", "<|vision_start|>"} <= names
