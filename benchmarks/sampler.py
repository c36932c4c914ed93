"""What choosing tokens costs: median ms of one `sample` call over 1, 4 and 16 rows of logits.

    python benchmarks/sampler.py [--rounds 200]

151,936 float32 logits a row, 151,665 of them tokens, through the call a step makes. `model` logits
fall off as a language model's do; `flat` ones are near-equal, the worst for a filter. Issue 3
asks for 0.2 ms of one row and 1.2 ms of sixteen.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from qwell.engine.sampler import new_sampler, sample
from qwell.engine.types import F32, SamplingParams
from qwell.native.cpu import default_threads

ROW, VOCAB, ROWS, PROMPT = 151_936, 151_665, (1, 4, 16), 2000
USUAL = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
PENALTIES = {"repetition_penalty": 1.05, "presence_penalty": 0.5, "frequency_penalty": 0.2}
CASES: tuple[tuple[str, str, bool, dict[str, Any]], ...] = (
    ("greedy", "model", False, {"temperature": 0}),
    ("greedy, penalties, mask", "model", True, {"temperature": 0, **PENALTIES}),
    ("T 0.7, top-k 20, top-p 0.8, rep 1.05", "model", False, USUAL),
    ("the same with mask", "model", True, USUAL),
    ("T 1", "model", False, {}),
    ("T 0.7, min-p 0.05", "model", False, {"temperature": 0.7, "min_p": 0.05}),
    ("T 1, top-p 0.9, penalties, mask", "model", True, {"top_p": 0.9, **PENALTIES}),
    ("top-k 20, top-p 0.8", "flat", False, {"top_k": 20, "top_p": 0.8}),
    ("top-p 0.8", "flat", False, {"top_p": 0.8}),
    ("top-p 0.8, mask", "flat", True, {"top_p": 0.8}),
    ("top-k 5000", "flat", False, {"top_k": 5000}),
)


def logits_of(kind: str, rng: np.random.Generator) -> F32:
    rows = rng.normal(0, 2.5 if kind == "model" else 1e-3, (max(ROWS), ROW))
    if kind == "model":
        np.put_along_axis(rows, rng.integers(0, VOCAB, (max(ROWS), 50)), rng.uniform(8, 20), 1)
    return rows.astype(np.float32)


def measure(logits: F32, masked: bool, params: dict[str, Any], rounds: int) -> float:
    """Median milliseconds of a call; every reply has a prompt of 2000 tokens behind it."""
    rng, count = np.random.default_rng(1), len(logits)
    samplers = [
        new_sampler(
            SamplingParams(**params), rng.integers(0, VOCAB, PROMPT), vocab_size=VOCAB, seed=i
        )
        for i in range(count)
    ]
    words = rng.integers(-(2**31), 2**31, (count, -(-VOCAB // 32))).astype(np.int32)
    masks = list(words) if masked else None
    times = []
    for _ in range(rounds):
        begin = perf_counter()
        tokens = sample(samplers, logits, masks, default_threads())
        times.append(perf_counter() - begin)
        for sampler, token in zip(samplers, tokens, strict=True):
            sampler.push(token)  # the next draw has other random numbers and more to penalise
    return 1000 * median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    logits = {kind: logits_of(kind, rng) for kind in ("model", "flat")}
    print(f"{'ms':44} " + " ".join(f"{rows:>3} rows" for rows in ROWS))
    for name, kind, masked, params in CASES:
        times = [measure(logits[kind][:rows], masked, params, rounds // rows + 5) for rows in ROWS]
        print(f"{kind:5} {name:38} " + " ".join(f"{t:8.3f}" for t in times), flush=True)


if __name__ == "__main__":
    main()
