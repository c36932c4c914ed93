"""Records -> the records worth learning from, and a report of every one that went and why.

In this order: Unicode repair, empty texts, exact duplicates, near duplicates, test data. The first
of several duplicates stays. Records are read again by their number, never held.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from qwell.checkpoint.appear import appearing_file
from qwell.data.decontaminate import Contamination
from qwell.data.duplicates import THRESHOLD, Duplicate, exact_duplicates, near_duplicates
from qwell.data.formats import detect_format, read_conversation
from qwell.data.records import Record, Records
from qwell.data.repair import repaired_value
from qwell.data.texts import FIELDS, text_of
from qwell.errors import DataError
from qwell.text.tokenizer import Tokenizer

EXAMPLES = 5
_EXCERPT = 160


@dataclass
class Step:
    """What one step did: how many records it changed or dropped, and the first few of them."""

    name: str
    seen: int = 0
    changed: int = 0
    dropped: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        if len(self.examples) < EXAMPLES:
            self.examples.append(what)


@dataclass
class CleaningReport:
    """`kept` of `seen` records; the steps in their order."""

    seen: int = 0
    kept: int = 0
    steps: list[Step] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """As JSON. Raises StorageError."""
        write_whole(path, [json.dumps(asdict(self), ensure_ascii=False, indent=1)])


class Cleaned:
    """The records that are left, repaired as they are read."""

    def __init__(self, records: Records, numbers: Sequence[int], *, repair: bool) -> None:
        self._records, self._numbers, self._repair = records, numbers, repair
        self.blocks = [len(numbers)]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, at: int) -> Record:
        found = self._records[self._numbers[at]]
        return Record(repaired_value(found.value), found.place) if self._repair else found

    def without(self, dropped: set[int]) -> Cleaned:
        """`dropped` are numbers in this one."""
        left = [number for at, number in enumerate(self._numbers) if at not in dropped]
        return Cleaned(self._records, left, repair=self._repair)

    def save(self, path: Path) -> None:
        """As JSON lines, whole or not at all. Raises StorageError, DataError for what no JSON can
        hold (the bytes of an image in a Parquet file); its times and decimals become text."""
        write_whole(path, (_line(self[at]) for at in range(len(self))))


def clean(
    records: Records,
    *,
    repair: bool = True,
    near: float | None = THRESHOLD,
    tests: Sequence[str] = (),
    tokenizer: Tokenizer | None = None,
    field: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Cleaned, CleaningReport]:
    """near: similarity from which a record is a duplicate, None to keep near duplicates.
    tests: texts of the evaluations to come; with them, the tokenizer whose tokens are compared.
    progress(step, done, total) is called as records are read. Raises DataError for a wrong record.
    """
    if tests and tokenizer is None:
        raise ValueError("tests are compared in tokens: a tokenizer is needed")
    job = _Job(records, field, progress)
    job.repair(repair)
    job.empty()
    job.duplicates("exact duplicates", exact_duplicates)
    if near is not None:
        job.duplicates("near duplicates", lambda texts: near_duplicates(texts, near))
    if tests and tokenizer:
        job.contamination(tests, tokenizer)
    job.report.kept = len(job.left)
    return job.left, job.report


class _Job:
    """The records that are left, step after step."""

    def __init__(
        self,
        records: Records,
        field: str | None,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self.left = Cleaned(records, range(len(records)), repair=False)
        self.report = CleaningReport(seen=len(records))
        self._records, self._field, self._progress = records, field, progress

    def repair(self, wanted: bool) -> None:
        """Repaired now to be counted, and again whenever a record is read."""
        if not wanted:
            return
        step = self._step("repair")
        for at in range(len(self.left)):
            record = self.left[at]
            fixed = repaired_value(record.value)
            if fixed != record.value:
                step.changed += 1
                step.note(f"{record.place}: {_difference(record.value, fixed)}")
            self._tell(step, at)
        self.left = Cleaned(self._records, range(len(self._records)), repair=True)

    def empty(self) -> None:
        step = self._step("empty")
        texts = self._texts(step)
        gone = {at for at in range(len(texts)) if not texts[at].strip()}
        for at in sorted(gone):
            step.note(self.left[at].place)
        self._drop(step, gone)

    def duplicates(self, name: str, find: Callable[[Sequence[str]], Iterator[Duplicate]]) -> None:
        step = self._step(name)
        texts, gone = self._texts(step), set()
        for found in find(texts):
            gone.add(found.at)
            places = [self.left[at].place for at in (found.at, found.first)]
            how = "" if found.similarity == 1 else f" ({found.similarity:.0%} alike)"
            step.note(f"{places[0]} repeats {places[1]}{how}: {_excerpt(texts[found.at])}")
        self._drop(step, gone)

    def contamination(self, tests: Sequence[str], tokenizer: Tokenizer) -> None:
        step = self._step("test data")
        index = Contamination([tokenizer.encode(test) for test in tests])
        texts, gone = self._texts(step), set()
        for at in range(len(texts)):
            if found := index.find(tokenizer.encode(texts[at])):
                gone.add(at)
                shared = f"{found.length} tokens in common with test {found.test + 1}"
                step.note(f"{self.left[at].place}: {shared}: {_excerpt(tests[found.test])}")
        self._drop(step, gone)

    def _step(self, name: str) -> Step:
        self.report.steps.append(Step(name, seen=len(self.left)))
        return self.report.steps[-1]

    def _texts(self, step: Step) -> _Texts:
        return _Texts(self.left, self._field, lambda at: self._tell(step, at))

    def _drop(self, step: Step, gone: set[int]) -> None:
        step.dropped = len(gone)
        self.left = self.left.without(gone)

    def _tell(self, step: Step, at: int) -> None:
        if self._progress:
            self._progress(step.name, at + 1, step.seen)


class _Texts(Sequence[str]):
    """The texts of records."""

    def __init__(self, records: Cleaned, field: str | None, told: Callable[[int], None]) -> None:
        self._records, self._field, self._told = records, field, told

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, at: int) -> str:  # type: ignore[override]
        if at >= len(self):
            raise IndexError(at)
        self._told(at)
        return said(self._records[at], self._field)


def said(record: Record, field: str | None = None) -> str:
    """All a record says, as one text: of a conversation, what was asked and answered."""
    value = record.value
    if isinstance(value, str) or field or (isinstance(value, Mapping) and set(FIELDS) & set(value)):
        return text_of(record, field)
    messages = read_conversation(record, detect_format(record)).messages
    return "\n".join(_spoken(m) for m in messages if m.get("role") != "system")


def _spoken(message: dict[str, Any]) -> str:
    content, calls = message.get("content"), message.get("tool_calls")
    text = content if isinstance(content, str) else json.dumps(content) if content else ""
    return text + (json.dumps(calls, ensure_ascii=False) if calls else "")


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Lines to a file that is there whole or not at all; one that was there is replaced. Raises
    StorageError, and DataError for text no file can hold."""
    try:
        with (
            appearing_file(path, force=True) as unfinished,
            unfinished.open("w", encoding="utf-8") as file,
        ):
            file.writelines(f"{line}\n" for line in lines)
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: a record holds a lone surrogate: clean it with repair") from error


def _line(record: Record) -> str:
    value = record.value if isinstance(record.value, Mapping) else {"text": record.value}
    try:
        return json.dumps(value, ensure_ascii=False, default=_spelled)
    except TypeError as error:
        raise DataError(f"{record.place}: {error}: leave the column out") from error


def _spelled(value: Any) -> str:
    if isinstance(value, date | time | timedelta | Decimal | UUID):
        return str(value)
    raise TypeError(f"JSON has no {type(value).__name__}")


def _difference(old: Any, new: Any) -> str:
    """Where two values that differ first do. What stayed is the same object: a NaN is not equal
    to itself, but a list with it is."""
    if isinstance(old, str):
        at = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
        start = max(0, at - 20)
        return f"{old[start : at + 20]!r} -> {new[start : at + 20]!r}"
    keys = old if isinstance(old, dict) else range(len(old))
    return next(_difference(old[key], new[key]) for key in keys if [old[key]] != [new[key]])


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]} ...")
