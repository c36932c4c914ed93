"""Tiny runs: a random model with a byte tokenizer, texts and chats it can learn in a second."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from qwell.train.config import PretrainConfig, SftConfig
from qwell.train.logs import read_log
from tests.cli.tiny import write_model

EXACT = ("step", "loss", "grad_norm", "lr", "tokens", "targets", "skipped")
"""What two runs that are bit-equal have the same in every step."""


def write_texts(path: Path, count: int, seed: int = 0) -> Path:
    """Lines of two-digit numbers."""
    draw = random.Random(seed)
    rows = ({"text": " ".join(str(draw.randint(0, 50)) for _ in range(20))} for _ in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_chats(path: Path, count: int, seed: int = 0) -> Path:
    """Sums of two digits."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        a, b = draw.randint(0, 9), draw.randint(0, 9)
        turns = [("user", f"{a}+{b}"), ("assistant", str(a + b))]
        lines.append(json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}))
    path.write_text("\n".join(lines) + "\n")
    return path


def prepare(folder: Path) -> dict[str, Any]:
    """A model and data in `folder`; the fields of a config that name them."""
    model = folder / "tiny"
    model.mkdir()
    write_model(model)
    return {
        "model": str(model),
        "data": (str(write_texts(folder / "train.jsonl", 80)),),
        "valid": (str(write_texts(folder / "valid.jsonl", 8, seed=1)),),
    }


def pretrain_config(folder: Path, **over: Any) -> PretrainConfig:
    """Twelve steps of two micro-batches of 128 tokens; in `folder`, made by `prepare`."""
    names = {
        "model": str(folder / "tiny"),
        "data": (str(folder / "train.jsonl"),),
        "valid": (str(folder / "valid.jsonl"),),
        "out": str(folder / "run"),
    }
    return PretrainConfig(**(names | _QUICK | over))


def sft_config(folder: Path, **over: Any) -> SftConfig:
    """The same on chats."""
    data, valid = folder / "chats.jsonl", folder / "held_chats.jsonl"
    if not data.exists():
        write_chats(data, 80)
        write_chats(valid, 8, seed=1)
    names = {
        "model": str(folder / "tiny"),
        "data": (str(data),),
        "valid": (str(valid),),
        "out": str(folder / "sft"),
    }
    return SftConfig(**(names | _QUICK | over))


_QUICK: dict[str, Any] = {
    "context": 128,
    "micro_batches": 2,
    "steps": 12,
    "lr": 3e-3,
    "lr_final": 3e-4,
    "warmup_steps": 2,
    "dtype": "float32",
    "eval_every": 4,
    "save_every": 4,
    "threads": 1,
}


def curve(folder: Path | str) -> list[tuple[Any, ...]]:
    """The exact fields of every step, then of every measurement, of the run in `folder`."""
    events = read_log(Path(folder))
    steps = [tuple(e[name] for name in EXACT) for e in events if e["kind"] == "step"]
    return steps + [(e["step"], e["loss"]) for e in events if e["kind"] == "eval"]
