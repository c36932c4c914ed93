"""How fast the engine users run is here: a batch of requests reads its prompts and writes replies.

All requests are submitted together. The prompt phase ends with the step that gave the last of them
its first token; the reply phase is gen_tokens further steps of all of them, so there is no prompt
work in it and every step has the whole batch. Each run stands between two measurements of the
machine's ceilings and is held against the better one: on shared machines the ceiling itself moves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from qwell.checkpoint.tensor import Checkpoint
from qwell.config import ModelConfig
from qwell.engine.engine import Engine
from qwell.engine.kv_cache import pages_for
from qwell.engine.llm import LLM
from qwell.engine.memory import available_bytes, kv_bytes
from qwell.engine.reply import Reply
from qwell.engine.types import Request, SamplingParams
from qwell.errors import MemoryBudgetError, UsageError
from qwell.native import NativeModel
from qwell.native.probe import Ceilings, Probe

OUTSIDE = "outside the program"
"""The time that is no phase of the native program: sampling, text, making batches."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """`batch` requests of prompt_tokens each, and gen_tokens after each one's first."""

    batch: int
    prompt_tokens: int
    gen_tokens: int

    def room(self, max_rows: int) -> int:
        """Tokens one request may come to. Who has read its prompt writes on while others read:
        a token for every step that is still to come."""
        reading = -(-self.batch * self.prompt_tokens // (max_rows - self.batch))
        waiting = 0 if self.batch == 1 else reading
        return self.prompt_tokens + 1 + waiting + self.gen_tokens


@dataclass(frozen=True, kw_only=True)
class Part:
    """One half of a run: its length, and milliseconds by kind of phase."""

    seconds: float
    steps: int
    ms: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a Work, and the ceilings around it. GB are 1e9 bytes, Gop 1e9 operations."""

    work: Work
    prefill: Part
    decode: Part
    mean_context: float
    """Tokens a reply row looked back on, mean over steps and requests."""
    step_bytes: float
    """Of a decode step: source tensors a token needs, once; keys and values of every request."""
    prefill_gop: float
    ceilings: Ceilings
    in_bf16: bool
    """Whether prompts are multiplied in bf16, by tiles or by pairs."""

    def figures(self) -> dict[str, float]:
        """What is compared, and what a median is taken of."""
        work, seconds = self.work, self.decode.seconds
        gb_per_s = self.step_bytes * self.decode.steps / seconds * 1e-9
        gop_per_s = self.prefill_gop / self.prefill.seconds
        return {
            "prefill_tok_per_s": work.batch * work.prompt_tokens / self.prefill.seconds,
            "prefill_gop_per_s": gop_per_s,
            "prefill_of_compute": gop_per_s / self.ceilings.prompt_compute(self.in_bf16)[1],
            "decode_tok_per_s": work.batch * self.decode.steps / seconds,
            "decode_gb_per_s": gb_per_s,
            "decode_of_bandwidth": gb_per_s / self.ceilings.read_gb_per_s,
        }


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Runs of one Work as JSON takes them: medians; phases and counts of the run in the middle."""
    figures = [run.figures() for run in runs]
    middle = sorted(runs, key=lambda run: run.decode.seconds)[len(runs) // 2]
    work = middle.work
    return {
        "batch": work.batch,
        "prompt_tokens": work.prompt_tokens,
        "gen_tokens": work.gen_tokens,
        **{name: median(one[name] for one in figures) for name in figures[0]},
        "compute_ceiling": middle.ceilings.prompt_compute(middle.in_bf16)[0],
        "read_gb_per_s": median(run.ceilings.read_gb_per_s for run in runs),
        "bytes_per_token": middle.step_bytes / work.batch,
        "mean_context": middle.mean_context,
        "prefill_steps": middle.prefill.steps,
        "decode_steps": middle.decode.steps,
        "phases_ms": {"prefill": dict(middle.prefill.ms), "decode": dict(middle.decode.ms)},
        "repeats": {name: [one[name] for one in figures] for name in _SPEEDS},
    }


_SPEEDS = ("prefill_tok_per_s", "decode_tok_per_s")


def weight_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the tensors one token needs, as the source file holds them: all of them, without
    the embedding if the head is another matrix (then only one row of it is read)."""
    unread = {"model.embed_tokens.weight"} if "lm_head.weight" in checkpoint.tensors else set()
    return sum(len(t.data) for name, t in checkpoint.tensors.items() if name not in unread)


def prefill_ops(config: ModelConfig, work: Work) -> int:
    """Operations the prompts need, two a weight and row: the matrices of the layers, attention to
    all earlier tokens, and the head for each prompt's last row."""
    D, F, P = config.hidden_size, config.intermediate_size, work.prompt_tokens
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    matrices = P * (D * (q + 2 * kv) + q * D + 3 * D * F)
    attention = P * (P + 1) // 2 * 2 * q
    return 2 * work.batch * (config.num_layers * (matrices + attention) + D * config.vocab_size)


def check_backend(llm: LLM) -> NativeModel:
    """The native back end of `llm`. Raises UsageError for another: it has no phases to time."""
    if not isinstance(llm.backend, NativeModel):
        raise UsageError("bench measures the native back end: unset QWELL_BACKEND")
    return llm.backend


def check(llm: LLM, work: Work) -> None:
    """Raises UsageError or MemoryBudgetError for work there is no room for."""
    rows, config = llm.engine.max_rows, llm.config
    if work.batch >= rows:
        raise UsageError(f"a batch of {work.batch:,} does not go into one step: take {rows - 1}")
    need, limit = work.room(rows), config.max_position_embeddings
    if need > limit:
        raise UsageError(
            f"{work.batch} x {work.prompt_tokens:,} prompt tokens and {work.gen_tokens:,} after "
            f"them come to {need:,} a request, but {llm.name} was made for {limit:,}: take fewer"
        )
    kv, room = kv_bytes(config, work.batch * need, check_backend(llm).kv_dtype), available_bytes()
    if room is not None and kv > room:
        raise MemoryBudgetError(
            f"the keys and values of {work.batch} requests need {kv / 1e9:.2f} GB, but "
            f"{room / 1e9:.2f} GB are available: take a smaller batch or shorter prompts"
        )


def bench(
    llm: LLM,
    works: Sequence[Work],
    *,
    params: SamplingParams,
    weight_bytes: int,
    repeat: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[list[list[Run]], Ceilings]:
    """Runs every work `repeat` times, in turns; gives the runs of each work, and the best ceilings.

    weight_bytes: see above. Raises what `check_backend` and `check` raise, before anything runs.
    """
    native = check_backend(llm)
    for work in works:
        check(llm, work)
    probe = Probe(native.num_threads, room=available_bytes())
    found: list[list[Run]] = [[] for _ in works]
    progress("measuring the machine")
    before = ceilings = probe.measure()
    _measure(llm, native, Work(batch=1, prompt_tokens=32, gen_tokens=4), params)  # wakes all
    for turn in range(repeat):
        for work, runs in zip(works, found, strict=True):
            progress(f"batch {work.batch}, run {turn + 1} of {repeat}")
            prefill, decode, context = _measure(llm, native, work, params)
            after = probe.measure()
            kv = kv_bytes(llm.config, 1, native.kv_dtype) * work.batch * context
            runs.append(
                Run(
                    work=work,
                    prefill=prefill,
                    decode=decode,
                    mean_context=context,
                    step_bytes=weight_bytes + kv,
                    prefill_gop=prefill_ops(llm.config, work) * 1e-9,
                    ceilings=before.best(after),
                    in_bf16=native.roles_differ,
                )
            )
            before, ceilings = after, ceilings.best(after)
    return found, ceilings


def _measure(
    llm: LLM, native: NativeModel, work: Work, params: SamplingParams
) -> tuple[Part, Part, float]:
    """Both halves of one run, and the mean context of the second."""
    engine = _engine(llm, work)
    replies = [engine.submit(request) for request in _requests(engine, work, params)]
    native.take_times()
    prefill = _steps(engine, native, replies, lambda _: all(r.num_output for r in replies))
    lengths = sum(len(reply.tokens) for reply in replies)
    decode = _steps(engine, native, replies, lambda done: done == work.gen_tokens)
    return prefill, decode, lengths / work.batch + (work.gen_tokens - 1) / 2


def _engine(llm: LLM, work: Work) -> Engine:
    """One with room for the whole batch; nothing of an earlier run is in its cache."""
    rows = llm.engine.max_rows
    room = work.room(rows) + 1  # a reply that fills its context would end
    return Engine(
        llm.backend,
        llm.tokenizer,
        eos_ids=llm.engine.eos_ids,
        max_context=room,
        num_pages=work.batch * pages_for(room),
        max_seqs=work.batch,
        max_rows=rows,
    )


def _requests(engine: Engine, work: Work, params: SamplingParams) -> list[Request]:
    """Random ids, the same in every run."""
    random = np.random.default_rng(0)
    ids = random.integers(0, engine.vocab_size, (work.batch, work.prompt_tokens)).tolist()
    return [
        Request(prompt_ids=tuple(row), params=replace(params, seed=seed, ignore_eos=True))
        for seed, row in enumerate(ids)
    ]


def _steps(
    engine: Engine, native: NativeModel, replies: Sequence[Reply], is_done: Callable[[int], bool]
) -> Part:
    """Steps until is_done(steps so far); raises what ended a reply."""
    start, steps = perf_counter(), 0
    while not is_done(steps):
        engine.step()
        steps += 1
        for reply in replies:
            if reply.error:
                raise reply.error
    seconds = perf_counter() - start
    ms: dict[str, float] = defaultdict(float)
    for name, phase_s in native.take_times():
        ms[name] += 1000 * phase_s
    ms[OUTSIDE] = 1000 * seconds - sum(ms.values())
    return Part(seconds=seconds, steps=steps, ms=dict(sorted(ms.items(), key=lambda i: -i[1])))
