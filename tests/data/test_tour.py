"""What the tour learns from: this machine's own text, and tasks with checkable answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwell.data.duplicates import shares_found
from qwell.data.machine import PIECE, gather, is_held_out, places
from qwell.data.tasks import score, write_tasks
from qwell.errors import DataError, UsageError


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "lib"
    (root / "doc").mkdir(parents=True)
    (root / "tests").mkdir()
    for i in range(150):
        code = f"def f{i}(x):\n" + "".join(f"    x += {i * j}\n" for j in range(40))
        (root / f"m{i}.py").write_text(code)
    for i in range(50):
        words = " ".join(f"word{(i * 97 + j * 31) % 1000}" for j in range(90))
        (root / "doc" / f"page{i}.rst").write_text(words)
    (root / "copy.py").write_text((root / "m1.py").read_text() + "\n# copy\n")
    (root / "tests" / "test_m.py").write_text("x = 1\n" * 100)
    (root / "long.py").write_text("".join(f"value_{i} = {i}\n" for i in range(3000)))
    (root / "short.py").write_text("x = 1\n")
    (root / "image.png").write_bytes(b"\0" * 500)
    return root


def test_a_corpus_is_gathered_and_split_by_content(tmp_path: Path, root: Path) -> None:
    made = gather(tmp_path / "out", max_bytes=80_000, roots=[root])
    train, test = lines(made.train), lines(made.test)
    assert test
    assert all(is_held_out(row["text"]) for row in test)
    assert not any(is_held_out(row["text"]) for row in train)
    assert {row["kind"] for row in train} == {"code", "prose"}
    total = sum(len(row["text"]) for row in train + test)
    assert 70_000 < total <= 80_000
    assert sum(made.bytes.values()) == total
    assert sum(made.documents.values()) == len(train) + len(test)
    assert made.skipped["neither code nor documentation"] == 1
    assert made.skipped["not 200 to 65,536 bytes"] == 1
    assert not any("tests" in row["path"] for row in train + test)
    again = gather(tmp_path / "again", max_bytes=80_000, roots=[root])
    assert again.train.read_bytes() == made.train.read_bytes()
    assert again.test.read_bytes() == made.test.read_bytes()


def test_near_copies_do_not_cross_the_split(tmp_path: Path, root: Path) -> None:
    made = gather(tmp_path / "out", max_bytes=10_000_000, roots=[root])
    texts = [row["text"] for row in lines(made.train) + lines(made.test)]
    assert sum("def f1(x)" in text for text in texts) == 1
    assert sum(text.endswith("value_2999 = 2999\n") for text in texts) == 1
    assert sum("value_9 = 9\n" in text for text in texts) == 1
    assert made.skipped["near duplicates"] >= 1


def test_a_patchwork_of_training_files_is_no_test(tmp_path: Path, root: Path) -> None:
    """Made of pieces of many files it is near none of them; nine tenths of it stand in them."""
    files = [(root / f"m{i}.py").read_text() for i in range(2, 12)]
    own = " ".join(f"own{i}" for i in range(50))
    patched = next(
        text
        for text in ("\n".join([*files, own, f"# {i}"]) for i in range(1000))
        if is_held_out(text)
    )
    (root / "patchwork.py").write_text(patched)
    made = gather(tmp_path / "out", max_bytes=10_000_000, roots=[root])
    assert not any(row["path"].endswith("patchwork.py") for row in lines(made.test))
    assert made.skipped["test files known from training text"] >= 1


def test_shares_found() -> None:
    a, b = "one two three four five six", "seven eight nine ten eleven twelve"
    assert shares_found([a, b, "x"], []) == [0.0, 0.0, 0.0]
    assert shares_found([a, b, "x"], [f"zero {a}", "eight nine ten eleven twelve"]) == [1.0, 0.5, 0]
    assert shares_found([], [a]) == []


def test_long_files_are_learnt_in_pieces(tmp_path: Path, root: Path) -> None:
    """In lines, without loss; what is held out stays whole."""
    whole = "".join(f"number_{i} = {i}\n" for i in range(3000))
    assert not is_held_out(whole)
    (root / "longer.py").write_text(whole)
    made = gather(tmp_path / "out", max_bytes=10_000_000, roots=[root])
    pieces = [row["text"] for row in lines(made.train) if row["path"].endswith("longer.py")]
    assert "".join(pieces) == whole
    assert 10 < len(pieces) < 20
    assert all(len(piece) <= PIECE and piece.endswith("\n") for piece in pieces)


def test_this_machine_has_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "other" / "site-packages"
    shared.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(shared))
    assert shared in places() and len(places()) == len(set(places()))
    with pytest.raises(DataError, match="no source code"):
        gather(tmp_path, max_bytes=1000, roots=[tmp_path])


def test_tasks_have_answers_their_verifier_accepts(tmp_path: Path) -> None:
    names = {"chain_sum": {"min_terms": 2, "max_terms": 3}, "spell_backward": {}}
    made = write_tasks(tmp_path, names, train=40, test=20, seed=1)
    train, test = lines(made.train), lines(made.test)
    assert {row["task"] for row in train} == set(names)
    assert made.test_rows == {"chain_sum": 20, "spell_backward": 20}
    for row in test:
        answer = row["messages"][1]["content"]
        assert score(row, answer) == 1.0
        assert score(row, f" {answer}\n") == 1.0
        assert score(row, "no idea") < 1.0
    asked = [{row["messages"][0]["content"] for row in rows} for rows in (train, test)]
    assert not asked[0] & asked[1]
    again = write_tasks(tmp_path / "again", names, train=40, test=20, seed=1)
    assert again.train.read_bytes() == made.train.read_bytes()
    other = write_tasks(tmp_path / "other", names, train=40, test=20, seed=2)
    assert other.test.read_bytes() != made.test.read_bytes()


def test_a_test_question_that_training_asks_too_is_left_out_of_training(tmp_path: Path) -> None:
    """Sums of two one-digit numbers: most of the hundred questions occur in both."""
    small = {"chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}
    made = write_tasks(tmp_path, small, train=300, test=40)
    assert made.left_out["chain_sum"] > 50
    asked = [{r["messages"][0]["content"] for r in lines(p)} for p in (made.train, made.test)]
    assert not asked[0] & asked[1]
    assert made.train_rows["chain_sum"] + made.left_out["chain_sum"] == 300


def test_an_unknown_task_is_told(tmp_path: Path) -> None:
    for tasks in ({"no_such_task": {}}, {"chain_sum": {"odd": 1}}):
        with pytest.raises(UsageError, match="reasoning-gym has no task"):
            write_tasks(tmp_path, tasks, train=1, test=1)
