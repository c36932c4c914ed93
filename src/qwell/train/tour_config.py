"""The sizes of a tour, and the configs of its model and its stages that follow. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from qwell.config import ModelConfig
from qwell.errors import UsageError
from qwell.native.cpu import check_threads
from qwell.train.config import PretrainConfig, SftConfig

HEAD = 32
"""Numbers of an attention head."""
CONTEXT = 1024
"""Tokens a model of the tour is asked to look back on; pieces of training text are as long."""

_COUNTS = ("corpus_bytes", "held_out_bytes", "layers", "rows_per_task", "tests_per_task")
_LEAST = {"pretrain_minutes": 0.1, "sft_minutes": 0.1} | dict.fromkeys(_COUNTS, 1)


@dataclass(frozen=True, kw_only=True)
class TourConfig:
    """Sizes of the tour. The steps of both stages are as many as fit their minutes here, unless
    they are told: then two tours over the same text are alike."""

    out: str = "runs/tour"
    """folder of everything the tour makes"""
    pretrain_minutes: float = 15.0
    """time of pre-training"""
    sft_minutes: float = 4.5
    """time of fine-tuning"""
    pretrain_steps: int = 0
    """steps of pre-training; 0: as many as fit its minutes"""
    sft_steps: int = 0
    """steps of fine-tuning; 0: as many as fit its minutes"""
    corpus_bytes: int = 48_000_000
    """text gathered from this machine"""
    held_out_bytes: int = 300_000
    """of the held-out text, read to measure bits per byte"""
    # Many, since merges learn in two seconds what takes a model minutes: over the same 6.4 MB of
    # text 4,096 gave 1.91 bits a byte in 158 s, 8,192 1.85 in 134, 16,384 1.81 in 139.
    vocab_size: int = 16_384
    """tokens of the tokenizer"""
    hidden_size: int = 256
    """of the model, a multiple of 64"""
    layers: int = 4
    """of the model"""
    rows_per_task: int = 12_000
    """questions to learn, of each task"""
    tests_per_task: int = 40
    """questions held out, of each task"""
    seed: int = 0
    """of weights, orders and tasks"""
    threads: int = 0
    """threads; 0: as many cores as this process may use"""

    def __post_init__(self) -> None:
        if self.hidden_size < 64 or self.hidden_size % 64:
            raise UsageError(f"hidden_size is {self.hidden_size}: give a multiple of 64")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not least <= value < math.inf:
                raise UsageError(f"{name} is {value:g}: give at least {least}")
        if self.threads:
            check_threads(self.threads, "threads")


def model_config(config: TourConfig) -> ModelConfig:
    """The shape of the model: the family's, small. Heads of 32, for of 64 there would be four."""
    heads = config.hidden_size // HEAD
    return ModelConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=round(config.hidden_size * 8 / 3 / 64) * 64,
        num_hidden_layers=config.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2 if heads % 2 == 0 else 1,
        head_dim=HEAD,
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
    )


def pretrain_config(config: TourConfig, out: Path, steps: int) -> PretrainConfig:
    """The recipe of so small a model. Far below the batch from which larger steps pay, so steps are
    as small as the kernels like: two pieces of text. The rate is the best of three tried over 1,000
    steps (4e-3: 2.07 bits a byte, 2e-3: 1.93, 1.2e-3: 1.91); it falls to nothing, since no stage of
    the same text follows. With small steps the second moment remembers longer (0.98)."""
    return PretrainConfig(
        model=str(out / "config.json"),
        tokenizer=str(out / "tokenizer"),
        data=(str(out / "data/train.jsonl"),),
        valid=(str(out / "data/valid.jsonl"),),
        out=str(out / "pretrain"),
        context=2 * CONTEXT,
        micro_batches=1,
        steps=steps,
        lr=1.2e-3,
        lr_final=1.2e-5,
        schedule="linear",
        warmup_steps=max(1, min(200, steps // 20)),
        beta2=0.98,
        init_std=config.hidden_size**-0.5,
        optimizer="master",
        eval_every=max(1, steps // 16),
        save_every=max(1, steps // 8),
        seed=config.seed,
        threads=config.threads,
    )


def sft_config(config: TourConfig, out: Path, steps: int) -> SftConfig:
    """Mostly tasks, and a part of questions about modules; held out are other rows of the tasks."""
    return SftConfig(
        model=str(out / "pretrain/model"),
        data=(str(out / "data/tasks.train.jsonl"), str(out / "data/modules.jsonl")),
        weights=(0.85, 0.15),
        valid=(str(out / "data/tasks.test.jsonl"),),
        out=str(out / "sft"),
        context=CONTEXT,
        micro_batches=2,
        steps=steps,
        lr=1e-3,
        lr_final=1e-5,
        schedule="linear",
        warmup_steps=max(1, min(30, steps // 20)),
        weight_decay=0.01,
        eval_every=max(1, steps // 8),
        save_every=max(1, steps // 4),
        seed=config.seed,
        threads=config.threads,
    )
