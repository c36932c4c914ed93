"""A trained model through qwell's own engine: how many answers are right, and what it says."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from time import sleep
from typing import Any

import qwell
from qwell.data.folder import open_records
from qwell.data.tasks import score
from qwell.errors import QwellError
from qwell.text.chat import encode_chat

RIGHT = 0.99


def accuracy(
    model: str, tests: Path, *, adapter: str | None = None, max_tokens: int = 64, limit: int = 0
) -> dict[str, float]:
    """Share of right answers at greedy decoding by the tasks' own verifiers: of each task and
    "all". tests: rows of write_tasks; limit: the first so many."""
    llm = qwell.load(model, ctx=1024, adapter=adapter)
    records = open_records(tests, texts=False).records
    rows: list[Any] = [records[at].value for at in range(min(limit or len(records), len(records)))]
    if llm.template is None:
        raise QwellError(f"{model} has no chat template: nothing can be asked")
    prompts = [list(encode_chat(llm.tokenizer, llm.template, row["messages"][:1])) for row in rows]
    replies = llm.generate(prompts, temperature=0, max_tokens=max_tokens)
    points: dict[str, list[float]] = {"all": []}
    for row, reply in zip(rows, replies, strict=True):
        right = float(score(row, reply.text) >= RIGHT)
        points["all"].append(right)
        points.setdefault(row["task"], []).append(right)
    return {name: sum(found) / len(found) for name, found in points.items()}


def chat_samples(model: str, tests: Path, questions: Sequence[str]) -> list[list[str]]:
    """Question and greedy answer: of `questions`, and of one test row of each task."""
    llm = qwell.load(model, ctx=1024)
    records = open_records(tests, texts=False).records
    asked: dict[str, str] = {}
    for at in range(len(records)):
        row: Any = records[at].value
        asked.setdefault(row["task"], row["messages"][0]["content"])
    every = [*questions, *asked.values()]
    return [[q, llm.chat(q, temperature=0, max_tokens=64).text] for q in every]


def ask_served(model: str, question: str) -> dict[str, str]:
    """Starts `qwell serve` on the model and asks it over HTTP, as any client would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "qwell", "serve", model, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"{url}/v1/models", server)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 64,
        }
        request = urllib.request.Request(
            f"{url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            found = json.load(response)
        return {"question": question, "answer": found["choices"][0]["message"]["content"]}
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if server.poll() is not None:
            raise QwellError(f"the server ended with code {server.returncode}: see qwell serve")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            sleep(0.2)
    raise QwellError("the server did not answer within a minute")
