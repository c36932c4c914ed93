"""Tasks with answers a program can check, from `reasoning-gym`, as conversations.

Train and test are drawn from different seeds, and a test question that also occurs in training is
left out of training, so a held-out score is one. The entry of the task stays in the row: `score`
asks the task's own verifier.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwell.data.clean import write_whole
from qwell.data.draw import Shuffle, bits
from qwell.errors import DataError, MissingPackageError, UsageError

FORMAT = "Answer with the result alone."
"""How a question ends, so that the answer is the whole reply."""


@dataclass(frozen=True)
class Tasks:
    """What was written: rows by task, and training rows left out since a test asks the same."""

    train: Path
    test: Path
    train_rows: dict[str, int]
    test_rows: dict[str, int]
    left_out: dict[str, int]


def write_tasks(
    folder: Path,
    tasks: Mapping[str, Mapping[str, Any]] | Sequence[str],
    *,
    train: int,
    test: int,
    seed: int = 0,
    ending: str = FORMAT,
) -> Tasks:
    """Writes tasks.train.jsonl and tasks.test.jsonl: `train` and `test` questions of each task.
    tasks: names of reasoning-gym, or name -> its options (ranges of difficulty).

    Raises MissingPackageError without reasoning-gym, UsageError for a task or option unknown to it.
    """
    options = dict(tasks) if isinstance(tasks, Mapping) else {name: {} for name in tasks}
    held, asked = [], set[str]()
    for name, how in options.items():
        rows = list(_unique(_rows(name, how, test, _seed(seed, name, "test"), ending), asked))
        held += rows
        asked |= {_question(row) for row in rows}
    learnt, left_out = [], Counter[str]()
    for name, how in options.items():
        for row in _rows(name, how, train, _seed(seed, name, "train"), ending):
            if _question(row) in asked:
                left_out[name] += 1
            else:
                learnt.append(row)
    if not learnt or not held:
        raise DataError("the tasks gave no rows: give other tasks, or more test questions")
    paths = folder / "tasks.train.jsonl", folder / "tasks.test.jsonl"
    for path, rows in zip(paths, (learnt, held)):
        order = Shuffle(len(rows), seed, path.name)
        write_whole(path, (json.dumps(rows[order(i)]) for i in range(len(rows))))
    return Tasks(*paths, _by_task(learnt), _by_task(held), dict(left_out))


def score(row: Mapping[str, Any], reply: str) -> float:
    """From 0 to 1: what the verifier of the task gives for a reply to the question of a row."""
    entry = row["entry"]
    name = entry["metadata"]["source_dataset"]
    return float(_gym().get_score_answer_fn(name)(answer=reply.strip(), entry=entry))


def _rows(
    name: str, options: Mapping[str, Any], size: int, seed: int, ending: str
) -> Iterator[dict[str, Any]]:
    gym = _gym()
    try:
        dataset = gym.create_dataset(name, seed=seed, size=size, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise UsageError(f"reasoning-gym has no task {name!r} like that: {error}") from error
    for entry in dataset:
        question = f"{entry['question']}\n{ending}" if ending else entry["question"]
        turns = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": str(entry["answer"])},
        ]
        yield {"messages": turns, "task": name, "entry": json.loads(json.dumps(entry, default=str))}


def _unique(rows: Iterator[dict[str, Any]], asked: set[str]) -> Iterator[dict[str, Any]]:
    seen = set(asked)
    for row in rows:
        if _question(row) not in seen:
            seen.add(_question(row))
            yield row


def _question(row: Mapping[str, Any]) -> str:
    return str(row["messages"][0]["content"])


def _seed(seed: int, name: str, split: str) -> int:
    return bits(seed, name, split) >> 33


def _by_task(rows: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(row["task"] for row in rows))


def _gym() -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingPackageError("making these tasks", "reasoning-gym") from error
    return reasoning_gym
