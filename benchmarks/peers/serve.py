"""The peer's half of the conversation: JSON lines in, JSON lines out, one engine behind them.

Runs in every peer's own environment, so it needs nothing but Python. First line out:
{"engine", "version", "settings": {"one": [...], "many": [...]}}, the settings worth trying for one
sequence and for many. Then each {"setting", "prompts", "gen_tokens"} is answered by
{"prefill_seconds", "decode_seconds", "decoded_tokens"} or {"error"}. Knows no engine.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Setting = dict[str, Any]


@dataclass(frozen=True)
class Times:
    """One measurement: all prompts read, then decoded_tokens of all sequences together."""

    prefill_seconds: float
    decode_seconds: float
    decoded_tokens: int


Measure = Callable[[Setting, list[list[int]], int], Times]
"""(setting, ids of every prompt, tokens to generate per sequence) -> Times."""


def serve(
    engine: str,
    version: str,
    measure: Measure,
    one: Sequence[Setting] = ({},),
    many: Sequence[Setting] = ({},),
) -> None:
    """Answers until stdin ends. What the engine itself prints goes to stderr."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=channel, flush=True)

    say({"engine": engine, "version": version, "settings": {"one": one, "many": many}})
    for line in sys.stdin:
        job = json.loads(line)
        try:
            say(asdict(measure(job["setting"], job["prompts"], job["gen_tokens"])))
        except Exception as error:  # whatever the engine throws is this setting's answer
            say({"error": f"{type(error).__name__}: {error}"})
