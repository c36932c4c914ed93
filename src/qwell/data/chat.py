"""A conversation -> ids and the tokens that are learnt, found from the chat template itself.

The template that serves renders the chat up to a turn of the assistant with the prompt for it, and
again with the turn. What the second has more than the first is what the model has to write: the
text or the calls, then the token that ends the turn, which is learnt too. The line break behind it
is not: the engine has stopped by then. So no pattern of any template is written here, and a
template that changes is followed.

Texts are cut into tokens where a served prompt ends, so the learnt ids are those a model is asked
for. One string would join a line break of the template with one that begins the reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwell.data.example import Example, example
from qwell.data.formats import Conversation, check_format, detect_format, read_conversation
from qwell.data.records import Records
from qwell.errors import DataError, TextError, UsageError
from qwell.text.chat import marked_text
from qwell.text.template import ChatTemplate, chat_values
from qwell.text.tokenizer import Tokenizer


class ChatExamples:
    """Conversations as ids. The format is that of the first record unless it is named.

    learn: "all" turns of the assistant, or the "last".
    """

    def __init__(
        self,
        records: Records,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        form: str | None = None,
        learn: str = "all",
    ) -> None:
        check_format(form)
        _check_learn(learn)
        self._records, self._tokenizer, self._template = records, tokenizer, template
        self.form = form or (detect_format(records[0]) if len(records) else "messages")
        self._learn = learn

    @property
    def blocks(self) -> Sequence[int]:
        return self._records.blocks

    def __len__(self) -> int:
        return len(self._records)

    def conversation(self, at: int) -> Conversation:
        """Raises DataError naming the place of a wrong record."""
        return read_conversation(self._records[at], self.form)

    def encode(self, at: int, epoch: int) -> Example:  # noqa: ARG002  a chat is the same each time
        found = self.conversation(at)
        try:
            return encode_learnt(
                self._tokenizer,
                self._template,
                found.messages,
                tools=found.tools,
                learn=self._learn,
                place=found.place,
            )
        except TextError as error:
            raise DataError(f"{found.place}: {error}") from error


def encode_learnt(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    learn: str = "all",
    place: str = "",
    **extra: Any,
) -> Example:
    """The ids of `encode_chat` without a prompt at the end, and which of them are learnt.

    They are cut at the start of each learnt turn, which shows only where a reply begins with white
    space. A message of the assistant with `weight` 0 is not learnt.
    Raises TextError as encode_chat does, for a conversation that begins with the assistant, and for
    a template that writes a turn differently once others follow.
    """
    _check_learn(learn)
    values = chat_values([_unweighted(m) for m in messages], tools, False, extra)
    text, marker = marked_text(tokenizer, template, values)
    ids: list[int] = []
    learnt: list[bool] = []
    at = 0
    for turn in _learnt_turns(messages, learn):
        start, end = _span(tokenizer, template, values, turn, (text, marker))
        for cut, is_learnt in ((start, False), (end, True)):
            part = tokenizer.encode_marked(text[at:cut], marker)
            ids += part
            learnt += [is_learnt] * len(part)
            at = cut
    rest = tokenizer.encode_marked(text[at:], marker)
    return example(ids + rest, learnt + [False] * len(rest), place)


def _learnt_turns(messages: Sequence[Mapping[str, Any]], learn: str) -> list[int]:
    found = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight", 1)]
    return found[-1:] if learn == "last" else found


def _span(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    values: dict[str, Any],
    turn: int,
    marked: tuple[str, str],
) -> tuple[int, int]:
    """Where in the chat the model's part of messages[turn] begins, and where it ends behind the end
    token. A template without one: behind the last visible character."""
    text, marker = marked
    if not turn:
        raise TextError("messages[0] is the assistant's, but nothing asks for it: leave it out")
    asked = values | {"messages": values["messages"][:turn], "add_generation_prompt": True}
    told = values | {"messages": values["messages"][: turn + 1]}
    before, _ = marked_text(tokenizer, template, asked, marker)
    after, _ = marked_text(tokenizer, template, told, marker)
    if not (after.startswith(before) and text.startswith(after)):
        raise TextError(
            f"the chat template writes messages[{turn}] differently when it is asked for and when "
            "others follow: learn the last turn only, or take another template"
        )
    reply = after[len(before) :]
    spellings = [s for s, i in tokenizer.special_tokens.items() if i in tokenizer.eos_ids]
    end = max((_behind_last(reply, s) for s in spellings), default=0)
    if reply[end:].strip():
        end = len(reply.rstrip())
    return len(before), len(before) + end


def _behind_last(text: str, spelling: str) -> int:
    at = text.rfind(spelling)
    return at + len(spelling) if at >= 0 else 0


def _unweighted(message: Mapping[str, Any]) -> Mapping[str, Any]:
    is_weighted = isinstance(message, Mapping) and "weight" in message
    return {k: v for k, v in message.items() if k != "weight"} if is_weighted else message


def _check_learn(learn: str) -> None:
    if learn not in ("all", "last"):
        raise UsageError(f"learn is {learn!r}: it is 'all' or 'last'")
