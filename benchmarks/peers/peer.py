"""Our half of the conversation with an engine in its own process (the other half: serve.py).

Knows no engine: a peer is a command that speaks the protocol. Everything that goes wrong with it
is a PeerError of one line, so that a comparison can report it and go on.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

Setting = dict[str, Any]

PATIENCE_S = 900
"""No answer takes longer; a peer that hangs is killed."""


class PeerError(Exception):
    """One line: what this engine could not do."""


@dataclass(frozen=True)
class Work:
    """The same for every engine: prompts of ids, then gen_tokens for each of them."""

    prompts: tuple[tuple[int, ...], ...]
    gen_tokens: int

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompts[0])

    @property
    def batch(self) -> int:
        return len(self.prompts)

    def __str__(self) -> str:
        return f"batch {self.batch}, prompt {self.prompt_tokens}, {self.gen_tokens} generated"


@dataclass(frozen=True)
class Speed:
    """Of all sequences together."""

    prefill_tok_per_s: float
    decode_tok_per_s: float


class Peer:
    """An engine that is loaded and waits. Its stderr goes to the file `log`."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | dict(env or {}),
            )
        hello = self._answer()
        self.engine, self.version = str(hello["engine"]), str(hello["version"])
        self._settings: dict[str, list[Setting]] = hello["settings"]

    def settings(self, batch: int) -> list[Setting]:
        """What the engine says is worth trying for that many sequences."""
        return self._settings["one" if batch == 1 else "many"]

    def measure(self, setting: Setting, work: Work) -> Speed:
        """Raises PeerError if the engine fails with this setting, or ends."""
        job = {"setting": setting, "prompts": work.prompts, "gen_tokens": work.gen_tokens}
        if self._process.poll() is not None:
            raise PeerError(self._last_words())
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # a peer that ends now gives no answer: told below
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise PeerError(" ".join(str(answer["error"]).split()))
        return Speed(
            work.batch * work.prompt_tokens / answer["prefill_seconds"],
            answer["decoded_tokens"] / answer["decode_seconds"],
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):  # an unread job
                stream.close()  # type: ignore[union-attr]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = Timer(PATIENCE_S, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            raise PeerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self.close()
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"it ended with code {code}: {lines[-1] if lines else 'no message'} ({self.log})"
