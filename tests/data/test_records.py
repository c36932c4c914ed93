"""Readers: every record with its place, at any place, and what is refused or counted."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell.data import records as readers
from qwell.data.folder import MAX_FILE, open_records
from qwell.data.records import JsonLines, Record, TextFiles, joined_blocks
from qwell.errors import DataError, NotFoundError, UsageError
from tests.data.small import write_lines


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=40), max_size=2)),
    blanks=st.lists(st.sampled_from(["", "  ", "\t", "\r"])),
)
def test_json_lines_are_read_at_any_place(
    tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, str]], blanks: list[str]
) -> None:
    lines = [json.dumps(value, ensure_ascii=False) for value in values] + blanks
    lines.sort(key=hash)
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    expected = [(json.loads(x), f"{path}:{i}") for i, x in enumerate(lines, 1) if x.strip()]
    found = JsonLines(path)
    assert len(found) == len(expected)
    read = {at: found[at] for at in reversed(range(len(found)))}
    assert [(read[at].value, read[at].place) for at in range(len(found))] == expected


def test_short_lines_cost_no_opening_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million of them took 6.5 s."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text":"a"}\n \n' * 100)
    opened, real = [], Path.open
    monkeypatch.setattr(Path, "open", lambda *how: opened.append(how) or real(*how))
    assert len(JsonLines(path)) == 100
    assert len(opened) <= 2


def test_a_wrong_line_is_told_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": \n')
    found = JsonLines(path)
    assert found[0].value == {"text": "a"}
    with pytest.raises(DataError, match=r"a\.jsonl:3: is not valid JSON"):
        found[1]


@pytest.mark.parametrize("value", ['{"text": "a", "text": "b"}', '{"a": [{"b": 1, "b": 1}]}'])
def test_a_key_that_comes_twice_is_refused(value: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(value)
    with pytest.raises(DataError, match=r"a\.jsonl:1: .*appears twice"):
        JsonLines(tmp_path / "a.jsonl")[0]


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "a" * 100}] * 3)
    found = JsonLines(path)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DataError, match="shorter"):
        found[2]


def test_a_json_file_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}, {"a": 2}]')
    found = open_records(path).records
    assert [found[i].value for i in range(len(found))] == [{"a": 1}, {"a": 2}]
    assert found[1].place == f"{path}: entry 2"
    path.write_text('{"a": 1}')
    with pytest.raises(DataError, match="not a list"):
        open_records(path)


@pytest.mark.parametrize("line", ["ä" * 30 + "\n", "日本語" * 40, "x\n"])
def test_a_long_text_is_cut_at_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(readers, "PIECE", 100)
    path = tmp_path / "a.txt"
    path.write_text(line * 20, encoding="utf-8")
    short = tmp_path / "b.txt"
    short.write_text("short")
    (tmp_path / "empty.txt").write_text("")
    found = TextFiles([path, tmp_path / "empty.txt", short])
    pieces = [found[i] for i in range(len(found))]
    assert "".join(p.value for p in pieces[:-1]) == line * 20
    assert all(len(p.value.encode()) <= 100 for p in pieces)
    assert [p.is_end for p in pieces] == [False] * (len(pieces) - 2) + [True, True]
    assert pieces[-1] == Record("short", str(short))
    if line.endswith("\n"):
        assert all(p.value.endswith("\n") for p in pieces[:-1])


def test_a_byte_order_mark_is_no_part_of_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the beginning of a file alone: elsewhere it is a character like others."""
    monkeypatch.setattr(readers, "PIECE", 10)
    mark = "\ufeff"
    (tmp_path / "a.txt").write_text(f"{mark}first\n{mark}next\n", "utf-8")
    (tmp_path / "b.md").write_text(mark, "utf-8")
    (tmp_path / "c.jsonl").write_text(mark + '{"text": "line"}\n', "utf-8")
    (tmp_path / "d.json").write_text(mark + '[{"text": "entry"}]', "utf-8")
    opened = open_records(tmp_path)
    found = [opened.records[i].value for i in range(len(opened.records))]
    assert found == [{"text": "line"}, {"text": "entry"}, "first\n", f"{mark}next\n"]
    assert opened.skipped["empty"] == 1


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\xff")
    with pytest.raises(DataError, match=r"a\.txt from byte 0: is not UTF-8 \(byte 3\)"):
        open_records(path)


def test_a_folder_of_code_is_read_by_name_and_the_rest_is_counted(tmp_path: Path) -> None:
    for name, raw in {
        "b.py": b"b = 1\n",
        "a/x.c": b"int x;\n",
        "a/data.bin": b"1",
        "image.py": b"\0\1",
        "latin.txt": b"\xe4",
        "big.js": b"x" * (MAX_FILE + 1),
        "empty.py": b" \n",
        ".git/config.py": b"x",
        ".hidden.py": b"x",
        "__pycache__/a.py": b"x",
        "settings.json": b' {"a": 1}',
        "list.json": b' [{"text": "entry"}]',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(raw)
    write_lines(tmp_path / "z.jsonl", [{"text": "line"}])
    opened = open_records(tmp_path)
    found = [opened.records[i] for i in range(len(opened.records))]
    assert [r.value for r in found] == [
        {"text": "entry"},
        {"text": "line"},
        "b = 1\n",
        "int x;\n",
    ]
    assert dict(opened.skipped) == {
        "not read: .bin": 1,
        "binary": 1,
        "JSON that is no list of records": 1,
        "not UTF-8": 1,
        "larger than 1 MiB": 1,
        "empty": 1,
        "hidden file": 1,
        "hidden or generated folder": 2,
    }


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        open_records(tmp_path / "none")
    (tmp_path / "a.jsonl.gz").write_bytes(b"x")
    with pytest.raises(UsageError, match="unpack"):
        open_records(tmp_path / "a.jsonl.gz")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match="conversations are read from"):
        open_records(tmp_path / "a.txt", texts=False)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.bin").write_text("x")
    with pytest.raises(DataError, match=r"holds nothing.*1 not read: \.bin"):
        open_records(tmp_path / "sub")


def test_neighbours_read_one_at_a_time_are_shuffled_as_one() -> None:
    assert joined_blocks([[3], [4], [1, 2], [5], [6]]) == [7, 1, 2, 11]
    assert joined_blocks([]) == []


def test_a_corpus_is_never_held(tmp_path: Path) -> None:
    """40 MB of lines and of text, read at every place, in under 8 MB."""
    path = write_lines(tmp_path / "a.jsonl", [{"text": "x" * 4000}] * 5000)
    (tmp_path / "b.txt").write_text("y" * 99 + "\n")
    with (tmp_path / "b.txt").open("a") as file:
        for _ in range(200):
            file.write(("y" * 99 + "\n") * 1000)
    tracemalloc.start()
    found = [JsonLines(path), TextFiles([tmp_path / "b.txt"])]
    total = sum(len(records[at].value) for records in found for at in range(len(records)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 5000 + 100 * 200_001
    assert peak < 8e6
