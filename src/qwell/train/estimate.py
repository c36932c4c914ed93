"""What a run would take on this machine, reckoned before its first step: `--dry-run`.

Memory is counted from shapes; a test holds it to the peak of real runs. Time is measured: one layer
and the head of the model's size run forward and backward here, and the optimizer over them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from time import perf_counter

import numpy as np

from qwell.config import ModelConfig
from qwell.data.rows import Rows
from qwell.data.survey import Survey
from qwell.engine.memory import available_bytes
from qwell.errors import MemoryBudgetError
from qwell.train.config import TrainConfig
from qwell.train.cost import Cost
from qwell.train.logs import clock
from qwell.train.losses import CHUNK_ROWS
from qwell.train.objectives import NextToken
from qwell.train.stage import DTYPES, adamw, adapt, steps_of
from qwell.train.weights import init_decoder

PROCESS_BYTES = 300_000_000
"""Python, torch and its libraries, before a model is there."""
LEAST_SECONDS = 2.0
"""A small model is measured as long: other programs take the cores for moments."""
SLACK = 1.15
"""Memory the allocator holds beyond what lives in it."""

STATE_BYTES = {"master": 10, "stochastic": 8, "8bit": 4.04, "8bit-stochastic": 2.04}
"""Of the optimizer, for each bf16 weight that learns; a float32 weight has no master."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process at its peak."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    loss: float

    @property
    def total(self) -> float:
        parts = self.weights + self.gradients + self.optimizer + self.activations + self.loss
        return PROCESS_BYTES + SLACK * parts


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A run in numbers."""

    parameters: int
    trained: int
    steps: int
    tokens: int
    targets: int
    flops: float
    memory: Memory
    available: int | None
    step_seconds: float

    @property
    def seconds(self) -> float:
        return self.steps * self.step_seconds

    def table(self) -> str:
        m, tokens_per_s = self.memory, self.tokens / self.seconds
        free = "unknown" if self.available is None else f"{self.available / 1e9:.1f} GB"
        parts = ", ".join(
            f"{name} {value / 1e9:.2f}"
            for name, value in (
                ("weights", m.weights),
                ("gradients", m.gradients),
                ("optimizer", m.optimizer),
                ("activations", m.activations),
                ("loss", m.loss),
            )
        )
        share = 100 * self.trained / self.parameters
        lines = (
            f"parameters  {self.parameters:,}, {self.trained:,} of them learn ({share:.3g} %)",
            f"steps       {self.steps:,}",
            f"tokens      {self.tokens:,}, {self.targets:,} of them learnt",
            f"FLOPs       {self.flops:.3g}",
            f"memory      {m.total / 1e9:.2f} GB ({parts}); available {free}",
            f"time        {clock(self.seconds)} at {tokens_per_s:,.0f} tok/s, "
            f"{self.flops / self.seconds / 1e12:.2f} TFLOP/s, as one layer and the head ran here",
        )
        return "\n".join(lines)


def estimate(config: TrainConfig, model: ModelConfig, survey: Survey) -> Estimate:
    """Reckons and measures. Raises MemoryBudgetError if the run cannot fit here."""
    memory, available = memory_of(config, model), available_bytes()
    check_fits(config, memory, available)
    steps = steps_of(config, survey)
    share = survey.tokens / (survey.rows * config.context)
    tokens = round(steps * config.tokens_per_step * min(1.0, share))
    targets = round(tokens * survey.targets / survey.tokens)
    mean_length = min(config.context, max(2.0, survey.tokens / survey.documents))
    cost = Cost(model, trains_base=not config.lora_rank, lora_rank=config.lora_rank)
    return Estimate(
        parameters=model.num_parameters,
        trained=trained_parameters(config, model),
        steps=steps,
        tokens=tokens,
        targets=targets,
        flops=cost.of(tokens, targets, tokens * mean_length),
        memory=memory,
        available=available,
        step_seconds=step_seconds(config, model, targets / max(1, tokens)),
    )


def check_fits(config: TrainConfig, memory: Memory, available: int | None) -> None:
    """Raises MemoryBudgetError, with what would help, for a run that has no room here."""
    if available is None or memory.total <= available:
        return
    advice = [
        text
        for text, helps in (
            ("--recompute", not config.recompute and memory.activations > 0.2 * memory.total),
            ("a smaller --context", memory.activations > 0.2 * memory.total),
            ("--optimizer 8bit", config.optimizer == "master" and not config.lora_rank),
            ("--lora-rank 16", not config.lora_rank),
            ("--qlora int8", bool(config.lora_rank) and not config.qlora),
            ("a smaller model", True),
        )
        if helps
    ]
    raise MemoryBudgetError(
        f"this run needs {memory.total / 1e9:.1f} GB but {available / 1e9:.1f} GB are available: "
        f"take {' or '.join(advice[:3])}, or several machines with torchrun"
    )


def trained_parameters(config: TrainConfig, model: ModelConfig) -> int:
    """Numbers that learn."""
    if not config.lora_rank:
        return model.num_parameters
    adapters = 0
    for name in config.lora_targets:
        out, inner = _shape(model, name)
        adapters += config.lora_rank * (out + inner)
    whole = model.vocab_size * model.hidden_size * (1 if model.tie_word_embeddings else 2)
    return model.num_layers * adapters + (whole if config.lora_embeddings else 0)


def memory_of(config: TrainConfig, model: ModelConfig) -> Memory:
    """Bytes at the peak: the end of a forward pass and the backward pass of the last layer."""
    wide = 4 if config.dtype == "float32" else 2
    trained = trained_parameters(config, model)
    state = STATE_BYTES[config.optimizer] - (2 if config.optimizer in ("master", "8bit") else 0)
    per_weight = state if wide == 4 else STATE_BYTES[config.optimizer]
    frozen = model.num_parameters if config.lora_rank else 0
    head_trained = not config.lora_rank or config.lora_embeddings
    D, V, T = model.hidden_size, model.vocab_size, config.context
    chunk = min(CHUNK_ROWS, T) * V * (2 * 4 + 2 * wide)
    return Memory(
        weights=frozen * _frozen_bytes(config, wide) + trained * wide,
        gradients=trained * wide,
        optimizer=trained * per_weight,
        activations=wide * T * _kept(config, model),
        loss=chunk + T * D * wide * 2 + (2 * V * D * wide if head_trained else 0),
    )


def _frozen_bytes(config: TrainConfig, wide: int) -> float:
    return {"": wide, "file": 1.1, "int8": 1.125, "int4": 0.625}[config.qlora]


def _kept(config: TrainConfig, model: ModelConfig) -> float:
    """Numbers a token leaves behind for the backward pass, and those of the layer at work."""
    D, F = model.hidden_size, model.intermediate_size
    q, kv = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    layer = 4 * D + 2 * q + 2 * kv + 3 * F + 4 * config.lora_rank
    work = 2 * F + 2 * D
    kept = D * model.num_layers + layer if config.recompute else layer * model.num_layers
    return kept + work


def step_seconds(config: TrainConfig, model: ModelConfig, share: float) -> float:
    """Seconds of an optimizer step, from one and two layers of this size run here. share: of the
    tokens that are targets."""
    tokens = min(config.context, 2048)
    short, optimizer = _measure(config, replace(model, num_hidden_layers=1), tokens, share)
    longer, _ = _measure(config, replace(model, num_hidden_layers=2), tokens, share)
    layer = max(longer - short, 0.02 * short)
    one = short + layer * (model.num_layers - 1)
    per_trained = optimizer / trained_parameters(config, replace(model, num_hidden_layers=1))
    return (
        config.micro_batches * one * config.context / tokens
        + trained_parameters(config, model) * per_trained
    )


def _measure(
    config: TrainConfig, model: ModelConfig, tokens: int, share: float
) -> tuple[float, float]:
    """Seconds of a micro-batch and of an optimizer step: the best of three or more."""
    decoder = init_decoder(model, seed=0, dtype=DTYPES[config.dtype], recompute=config.recompute)
    adapt(config, decoder)
    optimizer, objective = adamw(config)(decoder), NextToken()
    is_target = np.arange(tokens) >= tokens - max(1, round(share * (tokens - 1)))
    rows = Rows(np.zeros(tokens, np.int32), np.array([0, tokens], np.int32), is_target)
    best = best_step = float("inf")
    until = perf_counter() + LEAST_SECONDS
    for passes in count(1):
        start = perf_counter()
        objective.loss(decoder, rows, 1e-3).backward()
        middle = perf_counter()
        optimizer.step(1e-9)
        end = perf_counter()
        optimizer.zero_grad()
        best, best_step = min(best, middle - start), min(best_step, end - middle)
        if passes >= 3 and end > until:
            break
    return best, best_step


def _shape(model: ModelConfig, name: str) -> tuple[int, int]:
    """[out, in] of a matrix of a layer."""
    D, F = model.hidden_size, model.intermediate_size
    q, kv = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    return {
        "q_proj": (q, D),
        "k_proj": (kv, D),
        "v_proj": (kv, D),
        "o_proj": (D, q),
        "gate_proj": (F, D),
        "up_proj": (F, D),
        "down_proj": (D, F),
    }[name]
