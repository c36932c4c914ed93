"""Models that say what a test wants: a real server answers with them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from qwell.engine.llm import LLM
from tests.engine.tiny import EOS, Scripted, make_llm
from tests.server.live import chat_tokenizer

Turns = list[tuple[str, str]]
"""(role, content) of every turn of a prompt."""

_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", re.DOTALL)


class _Slow(Scripted):
    """Takes its time for every step, so that a test can act while a reply is written."""

    def __init__(self, next_id: Callable[[list[int]], int], seconds: float) -> None:
        super().__init__(next_id)
        self._seconds = seconds

    def step(self, batch: Any) -> Any:
        time.sleep(self._seconds)
        return super().step(batch)


def talker(reply: Callable[[Turns, str], str], seconds: float = 0.0) -> LLM:
    """A model that answers a chat with reply(turns, prompt): turns are those that are closed, the
    prompt is the whole text. A reply that has begun is gone on with."""
    tokenizer = chat_tokenizer()
    start = tokenizer.encode("<|im_start|>assistant\n", allow_special=True)
    scripts: dict[tuple[int, ...], list[int]] = {}

    def next_id(known: list[int]) -> int:
        # From the end: prompts are long, and this runs for every token.
        at = len(known) - 1 - known[::-1].index(start[0]) if start[0] in known else 0
        if known[at : at + len(start)] != start:
            return EOS
        head = tuple(known[: at + len(start)])
        if head not in scripts:
            prompt = tokenizer.decode(head)
            scripts[head] = tokenizer.encode(reply(_TURN.findall(prompt), prompt))
        at = len(known) - len(head)
        return scripts[head][at] if at < len(scripts[head]) else EOS

    return make_llm(_Slow(next_id, seconds), tokenizer=tokenizer, max_context=16_384, max_seqs=16)


def echo(seconds: float = 0.0) -> LLM:
    """Says what the last turn said: what a user pastes, a model gives back."""
    return talker(lambda turns, _: turns[-1][1], seconds)


def counter(seconds: float = 0.01, most: int = 400) -> LLM:
    """Counts for a while."""
    return talker(lambda _, __: " ".join(str(i) for i in range(1, most)), seconds)


def weatherman() -> LLM:
    """Calls a tool where there is one, and tells its result."""

    def reply(turns: Turns, prompt: str) -> str:
        results = re.findall(r"<tool_response>\n(.*?)\n</tool_response>", prompt, re.DOTALL)
        if results:
            return f"It says **{results[-1]}**."
        cities = re.findall(r"[A-Z]\w+", turns[-1][1])
        call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "%s"}}\n</tool_call>'
        return "Let me look.\n" + "\n".join(call % city for city in cities)

    return talker(reply)
