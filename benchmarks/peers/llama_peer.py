"""llama.cpp as a peer: `python llama_peer.py GGUF THREADS`, answers as serve.py says.

Drives llama_decode, so no Python copy of logits is billed to it, nor the choice of a token: it
decodes given ids. Every sequence has its own id in the batch, as its server does it.
"""

from __future__ import annotations

import sys
import time
from functools import cache
from typing import Any

import llama_cpp as llama

from serve import Setting, Times, serve

ROWS = 2048
"""Of one llama_decode; it cuts them into ubatches by itself."""
FLASH = {
    "on": llama.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
ONE = [{"flash_attn": fa, "ubatch": 512} for fa in ("on", "off")]
MANY = [
    {"flash_attn": fa, "ubatch": 512, "kv_unified": unified}
    for fa in ("on", "off")
    for unified in (False, True)
]


def quiet(*_: object) -> None:
    """llama.cpp's log goes nowhere."""


LOG = llama.llama_log_callback(quiet)  # kept: the C side holds the pointer

Row = tuple[int, int, int, bool]
"""token, position, sequence, whether its logits are wanted"""


def load(path: str) -> Any:
    llama.llama_backend_init()
    llama.llama_log_set(LOG, None)
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp cannot load {path}")
    return model


def open_context(model: Any, threads: int, sequences: int, tokens: int, setting: Setting) -> Any:
    """A context for `sequences` of `tokens` each."""
    params = llama.llama_context_default_params()
    params.n_ctx = sequences * (-(-tokens // 256) * 256)
    params.n_batch, params.n_ubatch = ROWS, setting["ubatch"]
    params.n_seq_max = sequences
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = FLASH[setting["flash_attn"]]
    params.kv_unified = setting.get("kv_unified", False)
    context = llama.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError("llama.cpp opens no context with these settings")
    return context


def decode(context: Any, batch: Any, rows: list[Row]) -> None:
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, wanted) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
    if llama.llama_decode(context, batch):
        raise RuntimeError("llama_decode failed")
    llama.llama_synchronize(context)


def measure(context: Any, prompts: list[list[int]], gen_tokens: int) -> Times:
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    rows = [
        (token, at, s, at == len(ids) - 1)
        for s, ids in enumerate(prompts)
        for at, token in enumerate(ids)
    ]
    batch = llama.llama_batch_init(ROWS, 0, 1)
    start = time.perf_counter()
    for at in range(0, len(rows), ROWS):
        decode(context, batch, rows[at : at + ROWS])
    read = time.perf_counter()
    for i in range(gen_tokens):
        step = [(ids[i % len(ids)], len(ids) + i, s, True) for s, ids in enumerate(prompts)]
        decode(context, batch, step)
    done = time.perf_counter()
    llama.llama_batch_free(batch)
    return Times(read - start, done - read, gen_tokens * len(prompts))


def main() -> None:
    model, threads = load(sys.argv[1]), int(sys.argv[2])

    @cache
    def context(sequences: int, tokens: int, setting: tuple[tuple[str, Any], ...]) -> Any:
        return open_context(model, threads, sequences, tokens, dict(setting))

    def run(setting: Setting, prompts: list[list[int]], gen_tokens: int) -> Times:
        tokens = max(map(len, prompts)) + gen_tokens
        opened = context(len(prompts), tokens, tuple(setting.items()))
        return measure(opened, prompts, gen_tokens)

    system = llama.llama_print_system_info().decode()
    serve("llama.cpp", f"llama-cpp-python {llama.__version__}; {system}", run, ONE, MANY)


if __name__ == "__main__":
    main()
