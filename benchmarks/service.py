"""Output tokens a second: so many streams through the service, against one call of LLM.generate.

python benchmarks/service.py qwen2.5-coder:0.5b --streams 16 --rounds 3
"""

from __future__ import annotations

import argparse
import threading
import time
from statistics import median

from qwell.engine.jobs import Event, Failed, Finished, Job
from qwell.engine.llm import LLM
from qwell.engine.load import load
from qwell.engine.memory import Room
from qwell.engine.service import Service
from qwell.engine.types import SamplingParams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--reply-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    llm = load(args.model, room=Room(max_seqs=64))
    found: dict[str, list[float]] = {"generate": [], "service": []}
    for turn in range(args.rounds):
        prompts = [
            [1000 + (turn * 101 + s * 7919 + at * 31) % 90_000 for at in range(args.prompt_tokens)]
            for s in range(args.streams)
        ]
        params = SamplingParams(temperature=0, max_tokens=args.reply_tokens, ignore_eos=True)
        tokens = args.streams * args.reply_tokens
        for name, run in (("generate", generate), ("service", serve)):
            llm.engine.cache.clear()
            begin = time.perf_counter()
            run(llm, prompts, params)
            found[name].append(tokens / (time.perf_counter() - begin))
            print(f"{name:9} {found[name][-1]:7.1f} output tokens/s", flush=True)
    ratio = median(s / g for s, g in zip(found["service"], found["generate"], strict=True))
    print(f"service / generate {ratio:.3f}")


def generate(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> None:
    llm.generate(prompts, params)


def serve(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> None:
    service, left, done = Service(llm), len(prompts), threading.Event()

    def hear(event: Event) -> None:
        nonlocal left
        if isinstance(event, Failed):
            raise event.error
        left -= isinstance(event, Finished)
        if left == 0:
            done.set()

    for prompt in prompts:
        service.submit(Job(prompt_ids=tuple(prompt), params=params), hear)
    done.wait()
    service.close()


if __name__ == "__main__":
    main()
