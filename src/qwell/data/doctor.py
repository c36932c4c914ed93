"""What is wrong with data before the first step: each function gives findings, with the row shown.

An "error" makes the run wrong or stops it; a "warning" is for a person to judge. Nothing here
changes data. The faults are those that cost users of other trainers whole runs: a turn that never
learns to end, a template that differs from the one that serves, test questions in training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qwell.data.clean import said
from qwell.data.decontaminate import Contamination
from qwell.data.example import Example
from qwell.data.formats import detect_format, read_conversation
from qwell.data.packing import PackedRows
from qwell.data.records import Record, Records
from qwell.data.show import marked, shortened
from qwell.data.survey import numbered_examples
from qwell.errors import DataError, TextError
from qwell.text.template import ChatTemplate
from qwell.text.tokenizer import Tokenizer

CLOSE = 0.05
"""Two rows of an embedding this near, relative to their length, were never told apart."""


@dataclass(frozen=True)
class Finding:
    """One fault: `count` rows have it, the first is shown."""

    name: str
    level: Literal["error", "warning"]
    message: str
    shown: str = ""
    count: int = 1


class Weight(Protocol):
    """[V, D], of which some rows can be read; checkpoint.Tensor is one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def float32(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]: ...


def untrained_ids(weight: Weight, tokenizer: Tokenizer) -> frozenset[int]:
    """Added tokens whose row no training has told apart from another added token or a padding row,
    or that have none.

    Rows that never occurred in training stay near each other (in Qwen2.5 all within 1 % of their
    length); those of two learnt tokens never do.
    """
    added = sorted(tokenizer.special_tokens.values())
    found = {id for id in added if id >= weight.shape[0]}
    if len(found) == len(added):
        return frozenset(found)
    rows = weight.float32(added[0], weight.shape[0])
    for id in added[: len(added) - len(found)]:
        row = rows[id - added[0]]
        apart = np.linalg.norm(rows - row, axis=1)
        apart[id - added[0]] = np.inf
        if apart.min() <= CLOSE * np.linalg.norm(row):
            found.add(id)
    return frozenset(found)


def check_untrained(
    weight: Weight, tokenizer: Tokenizer, rows: PackedRows, limit: int | None = 256
) -> list[Finding]:
    """Control tokens the data uses but the model has never learnt: LoRA does not reach their rows,
    so a reply would not end. `weight`: the embedding, and the head where it is another."""
    untrained = untrained_ids(weight, tokenizer)
    read, written = Counter[int](), Counter[int]()
    first: dict[int, Example] = {}
    for example in _sound(rows, limit):
        used = untrained.intersection(example.input_ids.tolist())
        learnt = set(example.input_ids[example.is_target].tolist())
        written.update(used & learnt)
        read.update(used - learnt)
        for id in used:
            first.setdefault(id, example)
    names = {i: text for text, i in tokenizer.special_tokens.items()}

    def finding(id: int) -> Finding:
        count, has_row = written[id] + read[id], id < weight.shape[0]
        why = (
            "its row of the embedding was never trained: train embeddings and head too"
            if has_row
            else "the embedding has no row for it: take the tokenizer of this model"
        )
        is_error = not has_row or (id in tokenizer.eos_ids and written[id])
        return Finding(
            "untrained token",
            "error" if is_error else "warning",
            f"{names[id]} is {'learnt' if written[id] else 'read'} in {count:,} rows, but {why}",
            marked(tokenizer, first[id]),
            count,
        )

    return [finding(id) for id in sorted(first)]


def check_rows(rows: PackedRows, tokenizer: Tokenizer, limit: int | None = None) -> list[Finding]:
    """Conversations: wrong records, turns without an end token, nothing to learn, over-long rows.
    Encodes every document, or `limit` of them drawn evenly."""
    found = _Gathered()
    for _, example in numbered_examples(rows, limit):
        if isinstance(example, DataError):
            found.add("wrong record", str(example), "")
            continue
        text = f"{example.place}: {{}} ({len(example):,} tokens)"
        if not example.num_targets:
            found.add("empty targets", text.format("nothing is learnt"), marked(tokenizer, example))
        elif not _ends(example, tokenizer):
            what = text.format("a learnt turn does not end with an end token")
            found.add("no end token", what, marked(tokenizer, example))
        if len(example) > rows.tokens_per_row:
            what = text.format(f"does not fit a row of {rows.tokens_per_row:,}: {rows.overlong}")
            found.add("over-long row", what, marked(tokenizer, example))
    return found.findings({"over-long row": "error" if rows.overlong == "refuse" else "warning"})


def template_drift(
    mine: ChatTemplate, theirs: ChatTemplate, *, names: tuple[str, str] = ("this", "the model's")
) -> list[Finding]:
    """Chats the two templates render differently: the model would be served what it did not learn.
    Templates that differ in writing only are the same."""
    if mine.source == theirs.source:
        return []
    found = _Gathered()
    for what, messages, tools in _PROBES:
        texts = [_rendered(template, messages, tools) for template in (mine, theirs)]
        if texts[0] != texts[1]:
            shown = "\n".join(f"{name}: {text!r}" for name, text in zip(names, texts))
            found.add("template drift", f"{what} is rendered differently", shown)
    return found.findings({})


def overlap(
    train: Records, test: Records, tokenizer: Tokenizer, *, limit: int | None = None
) -> list[Finding]:
    """Test data in training: the same question, an error; the report's rule of a common
    subsequence (see decontaminate.py), a warning, since tasks made by a program are all alike.
    `limit`: so many training records are compared by the rule."""
    found = _Gathered()
    questions = {asked(test[at]): test[at].place for at in reversed(range(len(test)))}
    index = Contamination([tokenizer.encode(said(test[at])) for at in range(len(test))])
    for at in range(len(train)):
        record = train[at]
        question, is_compared = asked(record), limit is None or at < limit
        if question and (place := questions.get(question)):
            same = f"{record.place} asks what {place} asks"
            found.add("test question in training", same, shortened(said(record)))
        elif is_compared and (near := index.find(tokenizer.encode(said(record)))):
            shared = f"{near.length} tokens in common with {test[near.test].place}"
            what = f"{record.place} has {shared}"
            found.add("test text in training", what, shortened(said(record)))
    return found.findings({"test text in training": "warning"})


def asked(record: Record) -> str:
    """What a record asks: a conversation without its last reply, or the whole text."""
    try:
        messages = read_conversation(record, detect_format(record)).messages
    except DataError:
        return said(record).strip()
    is_reply = bool(messages) and messages[-1].get("role") == "assistant"
    turns = [m for m in messages[: -1 if is_reply else None] if m.get("role") != "system"]
    return "\n".join(str(m.get("content")) for m in turns).strip()


class _Gathered:
    """Findings of one kind become one, with their number and the first of them."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}
        self._counts = Counter[str]()

    def add(self, name: str, message: str, shown: str) -> None:
        self._first.setdefault(name, (message, shown))
        self._counts[name] += 1

    def findings(self, levels: dict[str, Literal["error", "warning"]]) -> list[Finding]:
        return [
            Finding(name, levels.get(name, "error"), self._told(name), shown, self._counts[name])
            for name, (_, shown) in self._first.items()
        ]

    def _told(self, name: str) -> str:
        more = self._counts[name] - 1
        return self._first[name][0] + (f", and {more:,} more" if more else "")


def _sound(rows: PackedRows, limit: int | None) -> Iterator[Example]:
    """Examples without those that are wrong, which check_rows tells."""
    found = numbered_examples(rows, limit)
    return (example for _, example in found if isinstance(example, Example))


def _ends(example: Example, tokenizer: Tokenizer) -> bool:
    """Whether every stretch of learnt tokens ends with an end token."""
    learnt = [*example.is_target.tolist(), False]
    lasts = [i for i, (now, then) in enumerate(pairwise(learnt)) if now and not then]
    return all(int(example.input_ids[i]) in tokenizer.eos_ids for i in lasts)


def _rendered(template: ChatTemplate, messages: Any, tools: Any) -> str:
    try:
        return template.render(messages, tools=tools)
    except TextError as error:
        return f"refused: {error}"


def _turn(role: str, content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


_TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
_CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
_ASKED = _turn("user", "a question")
_PROBES: Sequence[tuple[str, list[dict[str, Any]], list[dict[str, Any]] | None]] = (
    ("a question without a system message", [_ASKED], None),
    ("a system message", [_turn("system", "be kind"), _ASKED], None),
    ("an empty system message", [_turn("system", ""), _ASKED], None),
    ("a second turn", [_ASKED, _turn("assistant", "an answer"), _ASKED], None),
    ("a list of tools", [_ASKED], [_TOOL]),
    (
        "a tool call and its result",
        [_ASKED, _turn("assistant", None, tool_calls=[_CALL]), _turn("tool", "a result")],
        [_TOOL],
    ),
)
