"""Greedy decoding of many prompts side by side, over any back end; only for comparing tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from qwell.config import REAL_VOCAB_SIZE
from qwell.engine.kv_cache import pages_for
from qwell.engine.types import F32, Backend
from qwell.model.batch import Batch


@dataclass
class Reply:
    """tokens, the end token included; for each, the runner-up and how many logits it was behind."""

    tokens: list[int] = field(default_factory=list)
    seconds: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    def add(self, logits: F32) -> None:
        real = logits[:REAL_VOCAB_SIZE].copy()
        first = int(real.argmax())  # ties go to the lowest id
        best, real[first] = real[first], -np.inf
        second = int(real.argmax())
        self.tokens.append(first)
        self.seconds.append(second)
        self.margins.append(float(best - real[second]))


def greedy(
    model: Backend, prompts: Sequence[Sequence[int]], count: int, eos_ids: Collection[int]
) -> list[Reply]:
    """Up to `count` tokens a prompt: prompts one after another, then all replies in step."""
    lens = [len(prompt) for prompt in prompts]
    own = pages_for(max(lens) + count)
    kv = model.new_kv(own * len(prompts))
    pages = [list(range(s * own, (s + 1) * own)) for s in range(len(prompts))]
    replies = [Reply() for _ in prompts]
    for prompt, reply, table in zip(prompts, replies, pages):
        reply.add(model.step(Batch.make([prompt], kv=kv, pages=[table]))[0])
    for i in range(count - 1):
        alive = [s for s, reply in enumerate(replies) if reply.tokens[-1] not in eos_ids]
        if not alive:
            break
        batch = Batch.make(
            [[replies[s].tokens[-1]] for s in alive],
            past=[lens[s] + i for s in alive],
            prompt_len=[lens[s] for s in alive],
            kv=kv,
            pages=[pages[s] for s in alive],
        )
        for s, logits in zip(alive, model.step(batch)):
            replies[s].add(logits)
    return replies
