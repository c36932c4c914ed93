"""qwell as one of the engines compared: `python ours.py MODEL THREADS`.

Drives the native back end with batches as the engine makes them: prompt rows in steps of at most
max_rows, then one row a sequence; the next token is the most likely one, and choosing it counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from qwell.engine.load import load
from qwell.model.batch import PAGE_SIZE, Batch
from qwell.native import NativeModel
from serve import Setting, Times, serve


def chunks(lengths: list[int], max_rows: int) -> Iterator[list[tuple[int, int, int]]]:
    """Steps that read prompts of these lengths in order: (prompt, start, stop) of each part."""
    step: list[tuple[int, int, int]] = []
    room = max_rows
    for prompt, length in enumerate(lengths):
        at = 0
        while at < length:
            stop = min(length, at + room)
            step.append((prompt, at, stop))
            room -= stop - at
            at = stop
            if not room:
                yield step
                step, room = [], max_rows
    if step:
        yield step


def read_prompts(
    model: NativeModel, prompts: list[list[int]], kv: Any, pages: list[list[int]]
) -> list[int]:
    """Fills the cache; the most likely next token of every prompt."""
    tokens: list[int] = []
    for step in chunks([len(ids) for ids in prompts], model.max_rows):
        batch = Batch.make(
            [prompts[s][at:stop] for s, at, stop in step],
            past=[at for _, at, _ in step],
            prompt_len=[len(prompts[s]) for s, _, _ in step],
            kv=kv,
            pages=[pages[s] for s, _, _ in step],
        )
        ends = [stop == len(prompts[s]) for s, _, stop in step]
        logits = model.step(replace(batch, out_rows=batch.out_rows[ends]))
        tokens += logits.argmax(axis=1).tolist()
    return tokens


def measure(model: NativeModel, prompts: list[list[int]], gen_tokens: int) -> Times:
    lengths = [len(ids) for ids in prompts]
    each = -(-(max(lengths) + gen_tokens) // PAGE_SIZE)
    pages = [list(range(s * each, (s + 1) * each)) for s in range(len(prompts))]
    kv = cache(model, each * len(prompts))
    start = time.perf_counter()
    tokens = read_prompts(model, prompts, kv, pages)
    read = time.perf_counter()
    for i in range(gen_tokens):
        past = [n + i for n in lengths]
        rows = [[token] for token in tokens]
        batch = Batch.make(rows, past=past, prompt_len=lengths, kv=kv, pages=pages)
        tokens = model.step(batch).argmax(axis=1).tolist()
    done = time.perf_counter()
    return Times(read - start, done - read, gen_tokens * len(prompts))


@lru_cache(maxsize=1)
def cache(model: NativeModel, num_pages: int) -> Any:
    """The pages, kept between measurements as an engine keeps its pool."""
    return model.new_kv(num_pages)


def main() -> None:
    model = load(sys.argv[1], num_threads=int(sys.argv[2])).engine.backend
    assert isinstance(model, NativeModel)

    def run(_: Setting, prompts: list[list[int]], gen_tokens: int) -> Times:
        return measure(model, prompts, gen_tokens)

    setting = {"isa": model.isa, "max_rows": model.max_rows}
    serve("qwell", version("qwell"), run, [setting], [setting])


if __name__ == "__main__":
    main()
