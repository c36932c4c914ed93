"""llama.cpp as a peer: one process that times the same work on request.

Runs in an environment of its own (tools/bench_peers.sh). Reads lines "prompt_tokens gen_tokens"
from stdin, answers each with one JSON line; drives the C API, so no Python copy is billed to it.
"""

from __future__ import annotations

import json
import sys
import time

import llama_cpp as llama
import numpy as np


def quiet(*_: object) -> None:
    """llama.cpp's log goes nowhere."""


LOG = llama.llama_log_callback(quiet)  # kept: the C side holds the pointer


def open_context(path: str, threads: int, tokens: int):
    llama.llama_backend_init()
    llama.llama_log_set(LOG, None)
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx = tokens
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = threads
    return llama.llama_init_from_model(model, params)


def decode(context, tokens: list[int]) -> None:
    array = (llama.llama_token * len(tokens))(*tokens)
    if llama.llama_decode(context, llama.llama_batch_get_one(array, len(tokens))):
        raise SystemExit("llama_decode failed")
    llama.llama_synchronize(context)


def measure(context, prompt_tokens: int, gen_tokens: int) -> dict[str, float]:
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    ids = np.random.default_rng(0).integers(0, 150_000, prompt_tokens).tolist()
    start = time.perf_counter()
    for at in range(0, prompt_tokens, 512):
        decode(context, ids[at : at + 512])
    read = time.perf_counter()
    for i in range(gen_tokens):
        decode(context, [ids[i % prompt_tokens]])
    done = time.perf_counter()
    return {
        "prefill_tok_per_s": prompt_tokens / (read - start),
        "decode_tok_per_s": gen_tokens / (done - read),
    }


def main() -> None:
    path, threads, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    context = open_context(path, threads, tokens)
    for line in sys.stdin:
        prompt_tokens, gen_tokens = map(int, line.split())
        print(json.dumps(measure(context, prompt_tokens, gen_tokens)), flush=True)


if __name__ == "__main__":
    main()
