"""transformers on torch as a peer: `python transformers_peer.py FOLDER THREADS` (serve.py).

The plain model call with its own cache and sdpa, without `generate`, which only adds to it. bf16 is
what it is meant to run in; float32 is tried as well, being faster on a CPU without bf16 units.
"""

from __future__ import annotations

import sys
import time
from functools import lru_cache
from typing import Any

import torch
import transformers

from serve import Setting, Times, serve

SETTINGS = [{"dtype": "bfloat16"}, {"dtype": "float32"}]


@lru_cache(maxsize=2)
def open_model(folder: str, dtype: str) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    )
    return model.eval()


@torch.inference_mode()
def measure(model: Any, prompts: list[list[int]], gen_tokens: int) -> Times:
    cache = transformers.DynamicCache(config=model.config)

    def step(ids: torch.Tensor) -> torch.Tensor:
        logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1:].argmax(-1)

    start = time.perf_counter()
    tokens = step(torch.tensor(prompts))
    read = time.perf_counter()
    for _ in range(gen_tokens):
        tokens = step(tokens)
    done = time.perf_counter()
    return Times(read - start, done - read, gen_tokens * len(prompts))


def main() -> None:
    folder, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)

    def run(setting: Setting, prompts: list[list[int]], gen_tokens: int) -> Times:
        return measure(open_model(folder, setting["dtype"]), prompts, gen_tokens)

    version = f"{transformers.__version__}, torch {torch.__version__}"
    serve("transformers", version, run, SETTINGS, SETTINGS)


if __name__ == "__main__":
    main()
