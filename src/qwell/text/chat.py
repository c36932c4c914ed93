"""A chat -> ids in which a control token never comes from what somebody typed.

The official tokenizers read `<|im_start|>` wherever it stands, so a user could open a turn. Here:

- What the template writes becomes control tokens, as in training.
- The spelling of an added token inside a message, a tool or an option stays ordinary text.
- One exception: in the content of an assistant message the tokens a model writes as visible text
  (`<tool_call>` and its like, those not in `special_ids`) stay tokens, so that a reply read again
  has the ids it was generated with.

The template runs twice: once on the texts as they are, once with a marker character inside every
such spelling, at both ends of a text also inside what its neighbour could complete. Without the
marker the second must equal the first; then only unbroken spellings are control tokens. Everything
between two control tokens is encoded as one string, as in training. What remains to trust: that the
template, which comes with the model, does not itself build a spelling out of the inside of a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any

from qwell.errors import TextError
from qwell.text.template import ChatTemplate, chat_values
from qwell.text.tokenizer import Tokenizer

_MARKERS = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    allow_special: bool = False,
    **extra: Any,
) -> list[int]:
    """Ids of a chat. For texts without spellings of added tokens, and always with allow_special,
    they are `tokenizer.encode(template.render(...), allow_special=True)`.

    Raises TextError for a wrong message, a failing template, or a template that treats a text
    with a marked spelling differently (none of Qwen's does).
    """
    values = chat_values(messages, tools, add_generation_prompt, extra)
    if allow_special:
        return tokenizer.encode(template.run(values), allow_special=True)
    return tokenizer.encode_marked(*marked_text(tokenizer, template, values))


def marked_text(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    values: dict[str, Any],
    marker: str | None = None,
) -> tuple[str, str]:
    """The chat as text in which only unbroken spellings are control tokens, and the marker that
    breaks the others. A given marker must not occur in the chat. Raises what encode_chat does.
    """
    text = template.run(values)
    marker = marker or _unused_character(text)
    marked = _marked(values, tokenizer, marker)
    if marked == values:
        return text, marker
    found = template.run(marked)
    if found.replace(marker, "") != text:
        raise TextError(
            "the chat template looks into a message that contains the spelling of a control "
            "token, so it cannot be kept as text: remove the spelling from the message"
        )
    return found, marker


def _unused_character(text: str) -> str:
    """A private-use character that text does not contain."""
    used = set(text)
    for code in chain(*_MARKERS):
        if chr(code) not in used:
            return chr(code)
    raise TextError("the chat uses every private-use character of Unicode: leave one out")


def _marked(values: dict[str, Any], tokenizer: Tokenizer, marker: str) -> dict[str, Any]:
    """The values of a template with broken spellings in all texts."""
    added = tokenizer.special_tokens
    typed = _Breaker(added, marker)
    reply = _Breaker([text for text, i in added.items() if i in tokenizer.special_ids], marker)
    marked: dict[str, Any] = typed.walk(values)
    for old, new in zip(values["messages"], marked["messages"]):
        if old["role"] == "assistant" and "content" in old:
            new["content"] = reply.walk(old["content"])
    return marked


class _Breaker:
    """Puts a marker into every spelling that stands in a text or could be completed around it."""

    def __init__(self, spellings: Iterable[str], marker: str) -> None:
        self._starts, self._begins, self._ends = _parts(tuple(spellings))
        self._longest = max(map(len, self._begins), default=0)
        self._marker = marker

    def walk(self, value: Any) -> Any:
        """A copy of a JSON value with every text in it broken."""
        if isinstance(value, str):
            return self.break_up(value)
        if isinstance(value, dict):
            return {self.walk(key): self.walk(item) for key, item in value.items()}
        return [self.walk(item) for item in value] if isinstance(value, list) else value

    def break_up(self, text: str) -> str:
        # Starts, not matches: spellings may overlap. Each has at least two characters.
        places = {match.start() + 1 for match in self._starts.finditer(text)}
        # White space at the ends is looked through: templates like to trim it.
        first, last = len(text) - len(text.lstrip()), len(text.rstrip())
        for at in range(max(first, last - self._longest), last):
            if text[at:last] in self._begins:
                places.add(at + 1)
        for end in range(first + 1, min(first + self._longest, last) + 1):
            if text[first:end] in self._ends:
                places.add(end - 1)
        cuts = [0, *sorted(places), len(text)]
        return self._marker.join(text[a:b] for a, b in pairwise(cuts)) if places else text


@lru_cache(8)
def _parts(
    spellings: tuple[str, ...],
) -> tuple[re.Pattern[str], frozenset[str], frozenset[str]]:
    """What finds where spellings start, also where they overlap; every beginning and every end."""
    starts = re.compile(f"(?={'|'.join(map(re.escape, spellings)) or '(?!)'})")
    begins = frozenset(s[:at] for s in spellings for at in range(1, len(s) + 1))
    ends = frozenset(s[at:] for s in spellings for at in range(len(s)))
    return starts, begins, ends
