"""`qwell train clean` and `qwell train tokenizer`: what they write and what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwell.cli import train_clean, train_tokenizer
from qwell.cli.options import Parser
from qwell.errors import UsageError
from qwell.text import Tokenizer
from tests.data.small import write_lines


def clean(*argv: str) -> None:
    train_clean.clean(**Parser("train clean", "", train_clean.OPTIONS["clean"]).parse(list(argv)))


def learn(*argv: str) -> None:
    options = train_tokenizer.OPTIONS["tokenizer"]
    train_tokenizer.tokenizer(**Parser("train tokenizer", "", options).parse(list(argv)))


def test_cleaning_writes_and_reports(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = "how many apples are left when three of ten are eaten by the girl"
    data = write_lines(
        tmp_path / "a.jsonl", [{"text": t} for t in ("one", "one ", "schÃ¶n", question)]
    )
    test = write_lines(tmp_path / "test.jsonl", [{"text": question}])
    out = tmp_path / "out.jsonl"
    clean(str(data), "--out", str(out), "--against", str(test), "--model", str(model))
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == ["one", "schön"]
    said, err = capsys.readouterr()
    assert "repair: 0 dropped, 1 changed of 4\n" in said
    assert f"    {data}:2 repeats {data}:1: 'one '\n" in said
    assert "test data: 1 dropped" in said
    assert err.endswith(f"2 of 4 records are in {out}; report in {out}.report.json\n")
    assert json.loads(Path(f"{out}.report.json").read_text())["kept"] == 2


def test_the_data_is_not_replaced_by_what_is_left_of_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jsonl").write_text('{"text": "once"}\n' * 2)
    before = (data / "a.jsonl").read_bytes()
    for read in (data / "a.jsonl", data):
        with pytest.raises(UsageError, match="which is read: write elsewhere"):
            clean(str(read), "--out", str(data / "a.jsonl"))
    assert (data / "a.jsonl").read_bytes() == before and len(list(data.iterdir())) == 1


def test_only_what_cleaning_wrote_is_replaced(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    mine = tmp_path / "held_out.jsonl"
    mine.write_text("mine")
    with pytest.raises(UsageError, match="or --force to replace it"):
        clean(str(data), "--out", str(mine))
    assert mine.read_text() == "mine"
    clean(str(data), "--out", str(mine), "--force")
    clean(str(data), "--out", str(mine), "--near", "0")
    assert len(mine.read_text().splitlines()) == 2


def test_wrong_options_of_clean(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--near 2\.0 is no likeness"):
        clean("x", "--out", "y", "--near", "2")
    with pytest.raises(UsageError, match="name a --model"):
        clean("x", "--out", "y", "--against", "z")


def test_a_tokenizer_is_learnt_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("def value(self): return self.value\n" * 20)
    (tmp_path / "code" / "b.bin").write_bytes(b"\0")
    learn(str(tmp_path / "code"), "--vocab-size", "290", "--out", str(tmp_path / "t"))
    found = Tokenizer.from_folder(tmp_path / "t")
    assert found.vocab_size == 290
    assert len(found.encode("def value(self)")) < 14
    err = capsys.readouterr().err
    assert "left out of" in err
    assert "1 not read: .bin" in err
    assert err.endswith(f"290 tokens are in {tmp_path / 't'}\n")


def test_a_place_that_is_taken_is_told_before_anything_is_learnt(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="--force"):  # not that there is no such data
        learn("no/such/data", "--vocab-size", "290", "--out", str(tmp_path / "t"))
