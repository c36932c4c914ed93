"""`qwell chat [MODEL]`: a conversation at the terminal, or line by line through a pipe.

Every line is a message, except those that begin with a slash. On a terminal a fault is shown and
the conversation goes on; in a pipe it ends the program, so that a script sees it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwell.cli import conversation as files
from qwell.cli.ask import ReadEntry, entry_reader, is_interactive, read_message
from qwell.cli.conversation import Conversation
from qwell.cli.opening import check_sampling, open_model, read_template
from qwell.cli.run import stats_line
from qwell.cli.terminal import AnswerWriter, Progress, note
from qwell.errors import QwellError, UsageError

if TYPE_CHECKING:
    from qwell.engine.llm import LLM
    from qwell.engine.types import Completion

DEFAULT_MODEL = "qwen2.5-coder:0.5b"


def chat(
    model: str = DEFAULT_MODEL,
    *,
    system: str | None = None,
    chat_template: str | None = None,
    ctx: int | None = None,
    threads: int | None = None,
    int8: bool = False,
    kv_dtype: str | None = None,
    adapter: str | None = None,
    **sampling: Any,
) -> None:
    """Talks until the input ends; `sampling` holds what was given of SamplingParams."""
    from qwell.hub.place import home

    check_sampling(sampling)
    template = None if chat_template is None else read_template(chat_template)
    llm = open_model(
        model,
        ctx=ctx,
        threads=threads,
        int8=int8,
        kv_dtype=kv_dtype,
        adapter=adapter,
        template=template,
    )
    talk = Chat(llm, sampling)
    if system is not None:
        talk.conversation.set_system(system)
    if is_interactive():
        note(f"{llm.name}, context {llm.max_context:,} tokens. /help tells the commands.")
    talk.loop(entry_reader(home() / "chat_history"))


class Chat:
    """A conversation with one model and the commands on it."""

    def __init__(self, llm: LLM, sampling: Mapping[str, Any]) -> None:
        self.llm, self.sampling = llm, sampling
        self.conversation = Conversation()
        self.last: Completion | None = None
        self.answers, self.tokens, self.is_over = 0, 0, False

    def loop(self, read: ReadEntry) -> None:
        """Until /exit or the end of input."""
        while not self.is_over:
            try:
                self.handle(read_message(read))
            except EOFError:
                return
            except KeyboardInterrupt:
                if not is_interactive():
                    raise
            except QwellError as error:
                if not is_interactive():
                    raise
                note(f"qwell: {error}")

    def handle(self, text: str) -> None:
        """A command (one line), a message, or an empty line, which is nothing."""
        if text.startswith("/") and "\n" not in text:
            self._command(text)
        elif text.strip():
            self._answer(text)

    def _answer(self, text: str) -> None:
        """Streams the reply. What was said of a stopped one is kept and marked; a message that
        got no word of reply is taken back."""
        messages = [*self.conversation.for_model(), {"role": "user", "content": text}]
        reading, writer, said = Progress("reading the prompt"), AnswerWriter(), ""
        done: Completion | None = None
        with _remember_ctrl_c() as is_stopped:
            pieces = self.llm.stream(
                messages, on_prefill=reading, is_cancelled=is_stopped, **self.sampling
            )
            try:
                for piece in pieces:
                    reading.close()
                    done = piece.completion
                    if done and _is_stopped(done):
                        break  # its text is half a character, or was held back for a stop string
                    writer.write(piece.text)
                    said += piece.text
            finally:
                reading.close()
                writer.end()
                pieces.close()  # type: ignore[attr-defined]
        assert done is not None, "a stream ends with its completion"
        if _is_stopped(done) and not said:
            note("[stopped before the first word; your message is taken back]")
            return
        self.conversation.add("user", text)
        self.conversation.add("assistant", said, stopped=_is_stopped(done))
        self._account(done)

    def _account(self, done: Completion) -> None:
        self.answers += 1
        self.tokens += done.usage.completion_tokens
        self.last = done
        if _is_stopped(done):
            note("[stopped]")
        elif done.finish_reason == "length":
            note(
                f"[cut by --max-tokens or the end of the context, {self.llm.max_context:,} tokens]"
            )

    def _command(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        if name not in _COMMANDS:
            near = [_ELSEWHERE[name]] if name in _ELSEWHERE else get_close_matches(name, _COMMANDS)
            hint = f"did you mean /{near[0]}?" if near else "/help tells which there are"
            raise UsageError(
                f"there is no command /{name}: {hint} (a space before / makes it text)"
            )
        argument, _, action = _COMMANDS[name]
        if bool(argument) != bool(rest.strip()):
            raise UsageError(f"the command is: /{name} {argument}".rstrip())
        action(self, rest.strip())

    def _help(self, _: str) -> None:
        for name, (argument, text, _action) in _COMMANDS.items():
            print(f"/{name} {argument}".ljust(15) + text)
        print('Alt-Enter starts a new line; """ opens and closes a text of many lines.')
        print("Ctrl-C stops an answer or clears the line; Ctrl-D ends the chat.", flush=True)

    def _system(self, text: str) -> None:
        self.conversation.set_system(text)
        note("the system message is set")

    def _save(self, name: str) -> None:
        files.save(Path(name).expanduser(), self.llm.name, self.conversation)
        note(f"saved {len(self.conversation.messages)} messages to {name}")

    def _load(self, name: str) -> None:
        model, self.conversation = files.load(Path(name).expanduser())
        self.last = None
        other = "" if model == self.llm.name else f"; it was with {model}, this is {self.llm.name}"
        note(f"loaded {len(self.conversation.messages)} messages{other}")

    def _reset(self, _: str) -> None:
        self.conversation.reset()
        self.last = None
        note("everything but the system message is forgotten")

    def _stats(self, _: str) -> None:
        print(f"answers: {self.answers}, with {self.tokens:,} tokens")
        if self.last:
            used = self.last.usage.prompt_tokens + self.last.usage.completion_tokens
            print(f"context: {used:,} of {self.llm.max_context:,} tokens")
            for part in stats_line(self.last).split("; "):
                print(f"last:    {part}", flush=True)

    def _exit(self, _: str) -> None:
        self.is_over = True


_COMMANDS: dict[str, tuple[str, str, Callable[[Chat, str], None]]] = {
    "help": ("", "this list", Chat._help),
    "system": ("TEXT", "set the system message", Chat._system),
    "save": ("FILE", "write the conversation as JSON", Chat._save),
    "load": ("FILE", "take up a saved conversation", Chat._load),
    "reset": ("", "forget everything but the system message", Chat._reset),
    "stats": ("", "tokens and speed so far", Chat._stats),
    "exit": ("", "end the chat", Chat._exit),
}

_ELSEWHERE = {"bye": "exit", "quit": "exit", "q": "exit", "clear": "reset", "?": "help"}
"""What other chats call a command of ours."""


def _is_stopped(done: Completion) -> bool:
    """By Ctrl-C."""
    return done.finish_reason == "cancelled"


@contextmanager
def _remember_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C is remembered and not raised: the engine is left between two steps, never
    in the middle of one."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
