"""Our side of a race: the native back end driven directly, with seeded random ids.

No sampling and no text, as the peers are driven; `qwell bench` measures the engine users run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from qwell.model.batch import PAGE_SIZE, Batch
from qwell.native import NativeModel

CHUNK = 256
"""Prompt rows of one step, as the engine takes them."""


@dataclass(frozen=True)
class Speed:
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
    return Speed(prompt_tokens / (read - start), gen_tokens / (done - read))
