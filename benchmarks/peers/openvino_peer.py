"""OpenVINO GenAI as a peer: `python openvino_peer.py FOLDER THREADS`, answers as serve.py says.

backend "pa" is ContinuousBatchingPipeline (paged attention), stepped from here so that reading
and decoding are told apart; "sdpa" is the plain LLMPipeline, for one sequence. Prefix caching is
off: the same prompt comes every round. Its own greedy choice of tokens is in its times.
"""

from __future__ import annotations

import itertools
import sys
import time
from functools import lru_cache, partial
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai

from serve import Setting, Times, serve

END = 151_645
"""The model's end id; ignored, but GenerationConfig wants one."""
BF16: Setting = {"backend": "pa", "hint": "LATENCY", "precision": "bf16"}
GROUPED = BF16 | {"dynamic_quantization": 64}
"""Activations quantised in the groups of the weights: the best where AMX is absent."""
COMMON = [
    GROUPED,
    GROUPED | {"precision": "f32"},
    GROUPED | {"kv": "f16"},
    BF16,
    BF16 | {"precision": "f32"},
    BF16 | {"dynamic_quantization": 0},
]
ONE = [*COMMON, GROUPED | {"backend": "sdpa"}]
MANY = [*COMMON, GROUPED | {"hint": "THROUGHPUT"}, GROUPED | {"rows": 256}]
NAMES = {
    "hint": "PERFORMANCE_HINT",
    "precision": "INFERENCE_PRECISION_HINT",
    "dynamic_quantization": "DYNAMIC_QUANTIZATION_GROUP_SIZE",
    "kv": "KV_CACHE_PRECISION",
}
REQUEST = itertools.count()


@lru_cache(maxsize=2)
def open_pipeline(folder: str, threads: int, rows: int, items: tuple[tuple[str, Any], ...]) -> Any:
    """rows: most prompt rows of one step of the paged pipeline."""
    setting = dict(items)
    properties = {NAMES[k]: v for k, v in setting.items() if k in NAMES}
    properties |= {"INFERENCE_NUM_THREADS": threads}
    if setting["backend"] == "sdpa":
        return genai.LLMPipeline(folder, "CPU", ATTENTION_BACKEND="SDPA", **properties)
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = setting.get("rows", rows)
    scheduler.enable_prefix_caching = False
    return genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)


def generation(gen_tokens: int) -> Any:
    """Greedy, and one token more than asked: the first belongs to the prompt."""
    config = genai.GenerationConfig()
    config.max_new_tokens = gen_tokens + 1
    config.do_sample, config.ignore_eos = False, True
    config.eos_token_id, config.stop_token_ids = END, {END}
    return config


def tensor(ids: list[int]) -> Any:
    return openvino.Tensor(np.array([ids], np.int64))


def measure_paged(pipeline: Any, prompts: list[list[int]], gen_tokens: int) -> Times:
    """Steps until every prompt gave a token, then to the end; a token that some sequence
    decoded while another was still read does not count as decoded."""
    config = generation(gen_tokens)
    start = time.perf_counter()
    handles = [pipeline.add_request(next(REQUEST), tensor(ids), config) for ids in prompts]
    while not all(handle.can_read() for handle in handles):
        pipeline.step()
    read = time.perf_counter()
    early = sum(len(tokens(handle)) for handle in handles)
    again = time.perf_counter()
    while pipeline.has_non_finished_requests():
        pipeline.step()
    done = time.perf_counter()
    return Times(read - start, done - again, (gen_tokens + 1) * len(prompts) - early)


def tokens(handle: Any) -> list[int]:
    """What the request has produced so far."""
    found: list[int] = []
    while handle.can_read():
        for output in handle.read().values():
            found += output.generated_ids
    return found


def measure_plain(pipeline: Any, prompts: list[list[int]], gen_tokens: int) -> Times:
    answer = pipeline.generate(tensor(prompts[0]), generation(gen_tokens))
    times = answer.perf_metrics.raw_metrics.m_new_token_times  # milliseconds, the first is prefill
    first = answer.perf_metrics.get_ttft().mean / 1000
    return Times(first, (times[-1] - times[0]) / 1000, len(times) - 1)


def main() -> None:
    opened = partial(open_pipeline, sys.argv[1], int(sys.argv[2]))

    def run(setting: Setting, prompts: list[list[int]], gen_tokens: int) -> Times:
        pipeline = opened(max(256, sum(map(len, prompts))), tuple(setting.items()))
        measure = measure_plain if setting["backend"] == "sdpa" else measure_paged
        return measure(pipeline, prompts, gen_tokens)

    serve("OpenVINO GenAI", genai.__version__, run, ONE, MANY)


if __name__ == "__main__":
    main()
