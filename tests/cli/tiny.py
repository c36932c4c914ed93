"""A tiny random model with a byte tokenizer, and two ways to run the command on it.

Every byte is a token and three control tokens follow, so any text can be asked and any answer read.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from qwell.cli.main import main
from tests.checkpoint.make import random_tensors, tiny_config, write_folder

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def config(**over: Any) -> dict[str, Any]:
    return tiny_config(vocab_size=259, eos_token_id=258, **over)


def write_model(path: Path, **over: Any) -> Path:
    """A whole folder; its sampling defaults are greedy."""
    known = config(**over)
    write_folder(path, known, random_tensors(known), generation={"eos_token_id": 258})
    write_tokenizer(path)
    return path


def write_tokenizer(path: Path, template: str | None = TEMPLATE) -> None:
    """vocab.json, merges.txt and tokenizer_config.json in the form of GPT-2."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [*map(chr, printable), *(chr(256 + i) for i in range(256 - len(printable)))]
    (path / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    added = {256 + i: {"content": text, "special": True} for i, text in enumerate(CONTROLS)}
    facts = {"added_tokens_decoder": added, "eos_token": "<|im_end|>"}
    if template is not None:
        facts["chat_template"] = template
    (path / "tokenizer_config.json").write_text(json.dumps(facts))


def tree(*folders: Path) -> dict[str, bytes | None]:
    """Everything under the folders, with contents: to see that nothing changed."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for folder in folders
        for path in sorted(folder.rglob("*"))
    }


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.splitlines()[-1])


Run = Callable[..., Result]


def in_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """qwell(*argv, stdin=b"") through main()."""

    def qwell(*argv: str | Path, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return qwell


def process(
    *argv: str | Path,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
    stdout: IO[str] | None = None,
) -> Result:
    """The command as a process of its own; `before` runs in it first, to set limits. `stdout`
    takes the place of the pipe we read."""
    done = subprocess.run(
        [sys.executable, "-m", "qwell", *map(os.fsencode, argv)],
        input=stdin,
        stdout=stdout or subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        preexec_fn=before,
        timeout=60,
        check=False,
    )
    return Result(done.returncode, (done.stdout or b"").decode(), done.stderr.decode())
