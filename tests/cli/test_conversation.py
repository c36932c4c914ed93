"""Saved conversations: what is written comes back, what is not ours is refused and left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwell.cli.conversation import Conversation, load, save
from qwell.errors import NotFoundError, StorageError, UsageError


def talk() -> Conversation:
    conversation = Conversation()
    conversation.set_system("Be brief.")
    conversation.add("user", "Grüß Gott 🌲")
    conversation.add("assistant", "Hel", stopped=True)
    return conversation


def test_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    save(file, "tiny", talk())
    model, back = load(file)
    assert (model, back.messages) == ("tiny", talk().messages)
    assert set(json.loads(file.read_text())) == {"model", "messages"}
    assert [path.name for path in tmp_path.glob("*") if path.is_file()] == ["talk.json"]


def test_marks_are_not_for_the_model() -> None:
    conversation = talk()
    assert conversation.messages[-1]["stopped"] is True
    assert all(set(message) == {"role", "content"} for message in conversation.for_model())


def test_system_message_is_replaced_and_survives_reset() -> None:
    conversation = talk()
    conversation.set_system("Be long.")
    assert [m["role"] for m in conversation.messages] == ["system", "user", "assistant"]
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Be long."}]
    empty = Conversation()
    empty.add("user", "x")
    empty.reset()
    assert empty.messages == []


def test_saving_again_replaces_but_never_another_file(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    save(file, "tiny", talk())
    save(file, "tiny", Conversation())
    assert load(file)[1].messages == []
    file.write_text("precious")
    with pytest.raises(UsageError, match="another name"):
        save(file, "tiny", talk())
    assert file.read_text() == "precious"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "talk.json"
    save(file, "tiny", talk())
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        save(file, "tiny", Conversation())
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.glob("*") if path.is_file()] == ["talk.json"]


WRONG = [
    "",
    "[]",
    "{}",
    '{"model": "m"}',
    '{"model": 1, "messages": []}',
    '{"model": "m", "messages": {}}',
    '{"model": "m", "messages": [], "extra": 1}',
    '{"model": "m", "messages": ["hi"]}',
    '{"model": "m", "messages": [{"role": "user"}]}',
    '{"model": "m", "messages": [{"role": "king", "content": "x"}]}',
    '{"model": "m", "messages": [{"role": ["user"], "content": "x"}]}',
    '{"model": "m", "messages": [{"role": "user", "content": null}]}',
    '{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
    '{"model": "m", "messages": [{"role": "user", "content": "x", "tools": []}]}',
    '{"model": "m", "messages": [{"role": "assistant", "content": "x", "stopped": 1}]}',
    '{"model": "m", "messages": [{"role": "user", "content": "x"}, '
    '{"role": "system", "content": ""}]}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:60])
def test_anything_else_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "talk.json"
    file.write_text(text)
    with pytest.raises(UsageError, match="/save") as refusal:
        load(file)
    assert "\n" not in str(refusal.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="check the path"):
        load(tmp_path / "nowhere.json")
