"""Models and a tokenizer for engine tests: no file, no native code.

The tokenizer is the real one over a vocabulary of bytes, a few merges and added tokens. `Rowwise`
computes every row of a batch by itself, so its bits cannot depend on what is beside it: NumPy's
matmul may round differently for other batch shapes, and the engine's promise is tested on bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwell.config import GenerationConfig, ModelConfig
from qwell.engine.llm import LLM
from qwell.engine.types import Backend
from qwell.model.batch import Batch
from qwell.model.reference import ReferenceModel
from qwell.text.template import ChatTemplate
from qwell.text.tokenizer import Tokenizer
from qwell.text.vocabulary import Vocabulary
from tests.model.tiny import make_config, random_model

F32 = NDArray[np.float32]

MERGES = ("a b", "ab c", "s t", "o p", "st op", "b c")
ADDED = {"<|endoftext|>": 262, "<|im_start|>": 263, "<|im_end|>": 264, "<tool_call>": 265}
EOS = ADDED["<|im_end|>"]
END_OF_TEXT = ADDED["<|endoftext|>"]
NUM_TOKENS, VOCAB_SIZE = 266, 280  # the rest is padding
GREEDY = GenerationConfig(eos_token_ids=(EOS,), do_sample=False)


def make_tokenizer() -> Tokenizer:
    special = frozenset(i for text, i in ADDED.items() if text.startswith("<|"))
    return Tokenizer(Vocabulary(MERGES, ADDED, special, EOS))


def byte_ids(text: str) -> list[int]:
    """One id a byte: merges left aside."""
    tokenizer = make_tokenizer()
    of = {tokenizer.token_bytes(i): i for i in range(256)}
    return [of[bytes([byte])] for byte in text.encode()]


def config(**over: Any) -> ModelConfig:
    return make_config(**({"vocab_size": VOCAB_SIZE} | over))


class FakeBackend:
    """What a back end of these tests says of itself."""

    max_rows, num_threads, kv_dtype, roles_differ, read_bytes = 1 << 30, 1, "float32", True, None


class Rowwise(FakeBackend):
    """A ReferenceModel one row at a time; remembers the batches it was given."""

    def __init__(self, model: ReferenceModel | None = None) -> None:
        self.model = model or random_model(config(), seed=3)
        self.config = self.model.config
        self.batches: list[Batch] = []

    def new_kv(self, num_pages: int) -> Any:
        return self.model.new_kv(num_pages)

    def step(self, batch: Batch) -> F32:
        self.batches.append(batch)
        wanted, rows = set(batch.out_rows.tolist()), []
        assert batch.page_table is not None
        for s, (lo, hi) in enumerate(batch.spans()):
            for row in range(lo, hi):
                one = Batch.make(
                    [[int(batch.input_ids[row])]],
                    past=[int(batch.positions[row])],
                    prompt_len=[int(batch.prompt_len[s])],
                    logits="last" if row in wanted else "none",
                    kv=batch.kv,
                    pages=[batch.page_table[s].tolist()],
                )
                logits = self.model.step(one)
                rows += [logits[0]] if row in wanted else []
        return np.array(rows, np.float32).reshape(-1, self.config.vocab_size)


class Scripted(FakeBackend):
    """Says what it is told: `next_id(tokens so far)` is the most likely token by ten logits.

    Keeps every token under its page and offset, so wrong pages or positions give a wrong answer.
    """

    def __init__(self, next_id: Callable[[list[int]], int], **over: Any) -> None:
        self.config, self.next_id = config(**over), next_id
        self.batches: list[Batch] = []

    def new_kv(self, num_pages: int) -> NDArray[np.int64]:
        return np.full((num_pages, 64), -1)

    def step(self, batch: Batch) -> F32:
        self.batches.append(batch)
        wanted, rows = set(batch.out_rows.tolist()), []
        assert batch.page_table is not None
        for pages, (lo, hi) in zip(batch.page_table, batch.spans(), strict=True):
            for row in range(lo, hi):
                at = int(batch.positions[row])
                batch.kv[pages[at // 64], at % 64] = batch.input_ids[row]
                if row in wanted:
                    known = batch.kv[pages[: at // 64 + 1]].reshape(-1)[: at + 1].tolist()
                    rows.append(self._logits(self.next_id(known)))
        return np.array(rows, np.float32).reshape(-1, self.config.vocab_size)

    def _logits(self, token: int) -> F32:
        logits = np.zeros(self.config.vocab_size, np.float32)
        if token < 0:
            return logits * np.float32(np.nan)
        logits[token] = 10
        return logits


def replying(ids: Iterable[int], prompt: int) -> Scripted:
    """A model that answers a prompt of so many tokens with `ids`, then ends."""
    script = [*ids]

    def next_id(known: Sequence[int]) -> int:
        at = len(known) - prompt
        return script[at] if at < len(script) else EOS

    return Scripted(next_id)


def make_llm(backend: Backend | None = None, **over: Any) -> LLM:
    options: dict[str, Any] = {
        "name": "tiny",
        "backend": backend or Rowwise(),
        "tokenizer": make_tokenizer(),
        "template": ChatTemplate.chatml(),
        "generation": GREEDY,
        "max_context": 512,
    }
    return LLM(**(options | over))
