"""Sequences moved on through `NativeModel.step` by any plan, and a model whose rows can be poison.

A `Talk` is a sequence and how much of it is prompt; a `Reader` moves many of them on together and
keeps their logits. The token POISON makes its row NaN from the first norm on: keys, values, every
slot and every scratch buffer it passes. What ordinary tokens compute must not change by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwell.checkpoint import open_checkpoint
from qwell.checkpoint.tensor import Checkpoint
from qwell.model.batch import PAGE_SIZE, Batch
from qwell.native import NativeModel
from qwell.native.pack import write_packed
from tests.checkpoint.make import random_tensors, tiny_config, write_folder, write_gguf
from tests.native.bits import F32
from tests.native.tiny import K_QUANTS

VOCAB, POISON, MAX_ROWS = 131, 130, 320
CHANNEL = 5


def poisonable(tmp: Path, dtype: str, **over: Any) -> tuple[Checkpoint, Path]:
    """A tiny model with three query heads a key head and sizes that fill no panel. One channel of
    the residual is 0 for every token but POISON, and the first norm multiplies it by 1e38.

    K formats are written as random blocks, so there the channel cannot be kept 0: no poison.
    """
    sizes = {"hidden_size": 96, "num_attention_heads": 6, "intermediate_size": 160}
    if dtype in K_QUANTS:
        sizes = {"hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 256}
    config = tiny_config(**{"vocab_size": VOCAB} | sizes | over)
    tensors = random_tensors(config)
    if dtype not in K_QUANTS:
        _open_the_channel(tensors)
    if dtype in ("BF16", "F16", "F32"):
        path = write_folder(tmp / dtype, config, tensors, dtype=dtype.lower())
    else:
        path = write_gguf(tmp / f"{dtype}.gguf", config, tensors, {"default": dtype})
    pack = tmp / f"pack-{dtype}"
    pack.mkdir()
    checkpoint = open_checkpoint(path)
    write_packed(pack, checkpoint.tensors)
    return checkpoint, pack


def _open_the_channel(tensors: dict[str, F32]) -> None:
    for name, values in tensors.items():
        if "o_proj" in name or "down_proj" in name:
            values[CHANNEL] = 0
    embedding = tensors["model.embed_tokens.weight"]
    embedding[:, CHANNEL], embedding[POISON, CHANNEL] = 0, 1e4
    tensors["model.layers.0.input_layernorm.weight"][CHANNEL] = 1e38


@dataclass(frozen=True)
class Talk:
    ids: tuple[int, ...]
    prompt: int
    """The rows before it are prompt rows."""

    @classmethod
    def random(cls, length: int, prompt: int, seed: int) -> Talk:
        ids = np.random.default_rng(seed).integers(0, POISON, length)
        return cls(tuple(ids.tolist()), prompt)


class Reader:
    """Reads talks over one cache, its pages dealt out in a shuffled order.

    poison: all pages are NaN before they are used, and before every step a step of as many rows
    of poison goes through the program.
    """

    def __init__(
        self, model: NativeModel, talks: Sequence[Talk], *, poison: bool = False, seed: int = 0
    ) -> None:
        self.model, self.talks, self.poison = model, talks, poison
        needs = [-(-len(talk.ids) // PAGE_SIZE) for talk in talks]
        self._spare = -(-model.max_rows // PAGE_SIZE)
        count = sum(needs) + self._spare
        shuffled = np.random.default_rng(seed).permutation(count).tolist()
        self.pages = [[shuffled.pop() for _ in range(n)] for n in needs]
        self._spare_pages = shuffled
        self.kv = model.new_kv(count)
        self.done = [0] * len(talks)
        self._rows: list[list[F32]] = [[] for _ in talks]
        if poison:
            for first in range(0, count, self._spare):
                self._poison_step(range(first, min(first + self._spare, count)), model.max_rows)

    def step(self, rows: Mapping[int, int]) -> None:
        """Moves talk i on by rows[i] of its tokens, all in one batch."""
        if self.poison:
            self._poison_step(self._spare_pages, sum(rows.values()))
        spans = [(i, self.done[i], self.done[i] + n) for i, n in rows.items()]
        batch = Batch.make(
            [self.talks[i].ids[lo:hi] for i, lo, hi in spans],
            past=[lo for _, lo, _ in spans],
            prompt_len=[self.talks[i].prompt for i, _, _ in spans],
            logits="all",
            kv=self.kv,
            pages=[self.pages[i] for i, _, _ in spans],
        )
        logits = self.model.step(batch)
        for i, lo, hi in spans:
            self._rows[i].append(logits[: hi - lo])
            logits = logits[hi - lo :]
            self.done[i] = hi

    def logits(self, talk: int) -> F32:
        return np.concatenate(self._rows[talk])

    def _poison_step(self, pages: Iterable[int], rows: int) -> None:
        """A page of poison after the other, `rows` rows at most."""
        ids, own = [], []
        for page in pages:
            n = min(rows - sum(map(len, ids)), PAGE_SIZE)
            if n > 0:
                ids.append([POISON] * n)
                own.append([page])
        found = self.model.step(Batch.make(ids, logits="all", kv=self.kv, pages=own))
        assert not np.isfinite(found).any()


def read_alone(model: NativeModel, talk: Talk) -> F32:
    """The plain way: the prompt in as few chunks as there are, then token by token."""
    return read_in_chunks(model, talk, [model.max_rows])


def read_in_chunks(model: NativeModel, talk: Talk, sizes: Sequence[int], **options: Any) -> F32:
    """Prompt in chunks of these sizes, repeated from the last, then the reply token by token."""
    reader, turn = Reader(model, [talk], **options), 0
    while reader.done[0] < talk.prompt:
        chunk = sizes[min(turn, len(sizes) - 1)]
        reader.step({0: min(chunk, talk.prompt - reader.done[0])})
        turn += 1
    while reader.done[0] < len(talk.ids):
        reader.step({0: 1})
    return reader.logits(0)
