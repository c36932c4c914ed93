"""Which text is measured on: a given file, the environment's, or Python's own documentation."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from qwell.errors import NotFoundError, TextError
from qwell.eval.text import VARIABLE, find_text


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_bytes("Es war\r\neinmal. ñ".encode())
    return path


def test_a_file_is_read_as_it_is(story: Path) -> None:
    found = find_text(str(story))
    assert (found.name, found.text) == ("story.txt", "Es war\r\neinmal. ñ")
    assert found.sha256 == hashlib.sha256(story.read_bytes()).hexdigest()


def test_the_variable_is_second(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(story))
    assert find_text().name == "story.txt"
    other = tmp_path / "other.txt"
    other.write_text("other")
    assert find_text(other).text == "other"


@pytest.mark.parametrize("value", [None, ""])
def test_else_the_documentation_of_this_python(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    found = find_text()
    assert "language reference of Python 3." in found.name
    assert len(found.text) > 100_000
    assert found.sha256 == find_text().sha256


def test_a_python_without_documentation_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(NotFoundError, match="name a text with --text or QWELL_EVAL_TEXT"):
        find_text()


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("text", "utf-8")
    (tmp_path / "marked").write_text("text", "utf-8-sig")
    plain, marked = find_text(tmp_path / "plain"), find_text(tmp_path / "marked")
    assert (marked.text, marked.sha256) == (plain.text, plain.sha256)


def test_faults_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(TextError, match=r"latin: not UTF-8 text \(byte 3\)"):
        find_text(tmp_path / "latin")
    for path in (tmp_path / "none", tmp_path, "a\0b"):
        with pytest.raises(NotFoundError, match=r"cannot be read .*check the path"):
            find_text(path)
