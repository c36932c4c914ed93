"""How fast a model runs here: prompt and reply tokens a second, and where the time goes.

    python benchmarks/bench.py qwen2.5-coder:0.5b [--prompt-tokens 512] [--gen-tokens 128] [--json]

Drives the native back end directly with seeded random ids, KV cache and all, so nothing but the
model is measured. The last line with --json is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import asdict, dataclass

import numpy as np

from qwell.engine.load import load
from qwell.model.batch import PAGE_SIZE, Batch
from qwell.native import NativeModel

CHUNK = 256
"""Prompt rows of one step, as the engine takes them."""


@dataclass(frozen=True)
class Speed:
    prompt_tokens: int
    gen_tokens: int
    prefill_tok_per_s: float
    decode_tok_per_s: float


def measure(model: NativeModel, prompt_tokens: int, gen_tokens: int, seed: int = 0) -> Speed:
    """One prompt of random ids, read in chunks, then a greedy reply of gen_tokens."""
    total = prompt_tokens + gen_tokens
    pages = list(range(-(-total // PAGE_SIZE)))
    kv = model.new_kv(len(pages))
    ids = np.random.default_rng(seed).integers(0, 150_000, prompt_tokens).tolist()
    start = time.perf_counter()
    for at in range(0, prompt_tokens, CHUNK):
        chunk = Batch.make([ids[at : at + CHUNK]], past=[at], kv=kv, pages=[pages])
        logits = model.step(chunk)
    read = time.perf_counter()
    for past in range(prompt_tokens, total):
        token = int(logits[0].argmax())
        row = Batch.make([[token]], past=[past], prompt_len=[prompt_tokens], kv=kv, pages=[pages])
        logits = model.step(row)
    done = time.perf_counter()
    return Speed(
        prompt_tokens, gen_tokens, prompt_tokens / (read - start), gen_tokens / (done - read)
    )


def phase_table(model: NativeModel) -> dict[str, float]:
    """Milliseconds by kind of phase since the last call, largest first."""
    times: dict[str, float] = defaultdict(float)
    for name, seconds in model.take_times():
        times[name] += 1000 * seconds
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--gen-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model = load(args.model, num_threads=args.threads).engine.backend
    runs = [measure(model, args.prompt_tokens, args.gen_tokens) for _ in range(args.repeat)]
    best = sorted(runs, key=lambda r: r.decode_tok_per_s)[len(runs) // 2]
    phases = phase_table(model)
    if args.json:
        print(
            json.dumps({"model": args.model, "isa": model.isa, "runs": [asdict(r) for r in runs]})
        )
        return
    print(f"{args.model}: {model.isa}, {model.num_threads} threads, median of {len(runs)}")
    print(f"  prefill {best.prompt_tokens:6d} tokens  {best.prefill_tok_per_s:8.1f} tok/s")
    print(f"  decode  {best.gen_tokens:6d} tokens  {best.decode_tok_per_s:8.1f} tok/s")
    total = sum(phases.values())
    for name, ms in phases.items():
        print(f"  {100 * ms / total:5.1f} %  {name}")


if __name__ == "__main__":
    main()
