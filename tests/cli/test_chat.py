"""`qwell chat`: line by line through a pipe, and once as a person at a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest

import qwell
from qwell.cli.chat import Chat
from qwell.cli.terminal import AnswerWriter
from tests.cli.tiny import Run, write_model

SHORT = ("-n", "5", "--ignore-eos")


def test_answers_line_by_line_as_the_library_does(run: Run, model: Path) -> None:
    result = run("chat", model, *SHORT, stdin=b"Hi\n\n  \nMore\n/save talk.json\n")
    assert result.code == 0
    saved = json.loads(Path("talk.json").read_text())
    assert saved["model"] == str(model)
    llm = qwell.load(str(model))
    messages = [{"role": "user", "content": "Hi"}]
    first = llm.chat(messages, max_tokens=5, ignore_eos=True).text
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "More"}]
    second = llm.chat(messages, max_tokens=5, ignore_eos=True).text
    assert saved["messages"] == [*messages, {"role": "assistant", "content": second}]
    assert result.out.replace("\n", "") == (first + second).replace("\n", "")
    assert result.err.count("cut by --max-tokens") == 2


def test_system_load_reset_stats_and_exit(run: Run, model: Path) -> None:
    run("chat", model, "--system", "Be kind", *SHORT, stdin=b"Hi\n/save a.json\n")
    typed = ["/load a.json", "/system Be brief", "/save b.json", "/reset", "/save c.json"]
    typed += ["/stats", "/help", "/exit", "no"]
    result = run("chat", model, *SHORT, stdin="\n".join(typed).encode())
    assert result.code == 0
    a, b, c = (json.loads(Path(f"{name}.json").read_text())["messages"] for name in "abc")
    assert a[0] == {"role": "system", "content": "Be kind"}
    assert b == [{"role": "system", "content": "Be brief"}, *a[1:]]
    assert c == b[:1]
    assert "answers: 0" in result.out and "/load FILE" in result.out
    assert "loaded 3 messages" in result.err
    assert "system message is set" in result.err and "is forgotten" in result.err


def test_stats_are_of_the_conversation_that_is_there(run: Run, model: Path) -> None:
    """What was forgotten fills no context; no line is wider than a terminal."""
    told = run("chat", model, *SHORT, stdin=b"Hi\n/stats\n/reset\n/stats\n").out.splitlines()
    assert [line.partition(":")[0] for line in told].count("context") == 1
    assert max(map(len, told)) <= 80


@pytest.mark.parametrize(("typed", "ours"), [("bye", "exit"), ("clear", "reset"), ("?", "help")])
def test_names_of_other_chats_lead_to_ours(run: Run, model: Path, typed: str, ours: str) -> None:
    assert f"did you mean /{ours}?" in run("chat", model, stdin=f"/{typed}\n".encode()).err


def test_many_lines_between_quotes(run: Run, model: Path) -> None:
    typed = b'"""\nfirst\n/second\n"""\n"""one"""\n/save a.json\n'
    run("chat", model, *SHORT, stdin=typed)
    asked = [m["content"] for m in json.loads(Path("a.json").read_text())["messages"][::2]]
    assert asked == ["first\n/second", "one"]


def test_stats_count_tokens(run: Run, model: Path) -> None:
    result = run("chat", model, *SHORT, stdin=b"Hi\n/stats\n")
    assert "answers: 1, with 5 tokens" in result.out
    assert re.search(r"context: \d+ of 512 tokens", result.out)


def test_a_fault_takes_back_the_message(model: Path) -> None:
    talk = Chat(qwell.load(str(model)), {})
    with pytest.raises(qwell.errors.ContextLengthError):
        talk.handle("x" * 600)
    assert talk.conversation.messages == []


def test_ctrl_c_stops_the_answer_and_keeps_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Chat(qwell.load(str(model)), {"max_tokens": 100, "ignore_eos": True})
    write = AnswerWriter.write

    def press_after_three(self: AnswerWriter, text: str) -> None:
        write(self, text)
        pressed.append(text)
        if len(pressed) == 3:
            signal.raise_signal(signal.SIGINT)

    pressed: list[str] = []
    monkeypatch.setattr(AnswerWriter, "write", press_after_three)
    before = signal.getsignal(signal.SIGINT)
    talk.handle("Hi")
    assert signal.getsignal(signal.SIGINT) is before
    assert talk.conversation.messages[-1] == {
        "role": "assistant",
        "content": "".join(pressed[:3]),
        "stopped": True,
    }
    assert "[stopped]" in capsys.readouterr().err
    assert talk.llm.engine.cache.num_free == talk.llm.engine.cache.pool.num_pages
    capsys.readouterr()
    talk.handle("/stats")
    stats = capsys.readouterr().out
    said = int(re.search(r"answers: 1, with (\d+) tokens", stats)[1])  # type: ignore[index]
    assert 3 <= said < 100
    assert f"answer {said} tokens at" in stats and "ended by cancelled" in stats
    prompt = int(re.search(r"prompt (\d+) tokens", stats)[1])  # type: ignore[index]
    assert f"context: {prompt + said} of 512 tokens" in stats
    talk.handle("Go on")
    assert len(talk.conversation.messages) == 4


def test_ctrl_c_while_the_prompt_is_read(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Chat(qwell.load(str(model)), {"max_tokens": 5})
    monkeypatch.setattr(
        "qwell.cli.chat.Progress.__call__", lambda *_: signal.raise_signal(signal.SIGINT)
    )
    talk.handle("x" * 400)  # two chunks: pressed after the first, seen after the second
    assert talk.conversation.messages == []
    assert "taken back" in capsys.readouterr().err


OWN_TERMINAL = (
    "import fcntl, runpy, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "runpy.run_module('qwell', run_name='__main__')"
)
"""Makes the pseudo terminal the process's own, so that its Ctrl-C arrives, and runs the command."""


class Terminal:
    """The command on a pseudo terminal; `until` reads what the screen would show."""

    def __init__(self, *argv: str | Path) -> None:
        self.end, side = pty.openpty()
        command = [sys.executable, "-c", OWN_TERMINAL, *map(str, argv)]
        env = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            command, stdin=side, stdout=side, stderr=side, env=env, start_new_session=True
        )
        os.close(side)
        self.screen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.end)

    def type(self, keys: str) -> None:
        os.write(self.end, keys.encode())

    def until(self, text: str) -> None:
        """Waits for a text that was not read yet."""
        deadline = time.monotonic() + 20
        while text not in self.screen:
            assert time.monotonic() < deadline, f"{text!r} never came: {self.screen!r}"
            self._read()
        self.screen = self.screen.partition(text)[2]

    def until_more(self, characters: int) -> None:
        """Waits for so many characters that were not read yet."""
        while len(self.screen) < characters:
            self._read()

    def _read(self) -> None:
        """Adds what comes, without escape sequences."""
        assert select.select([self.end], [], [], 20)[0], f"nothing came after {self.screen!r}"
        self.screen += os.read(self.end, 65536).decode(errors="replace")
        self.screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.screen)


def test_at_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = write_model(tmp_path / "talkative", max_position_embeddings=32_768)
    monkeypatch.setenv("QWELL_HOME", str(tmp_path / "mine"))
    with Terminal("chat", model, "-n", "30000", "--ignore-eos") as terminal:
        terminal.until("/help tells the commands")
        terminal.until(">")
        terminal.type("first\x1b\rsecond\r")  # Alt-Enter, Enter
        terminal.until("second")
        terminal.until_more(300)  # more than the echo of the line: the answer has begun
        terminal.type("\x03")
        terminal.until("[stopped]")
        terminal.until(">")
        terminal.type("never sent\x03")
        terminal.until(">")
        terminal.type("/lod x\r")
        terminal.until("did you mean /load?")
        terminal.until(">")
        terminal.type("/save talk.json\r")
        terminal.until("saved 2 messages")
        terminal.until(">")
        terminal.type("\x04")
        assert terminal.process.wait(20) == 0
    messages = json.loads(Path("talk.json").read_text())["messages"]
    assert messages[0]["content"] == "first\nsecond"
    assert messages[1]["stopped"] is True
    history = tmp_path / "mine" / "chat_history"
    assert "+first\n+second" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600
