"""What pre-training and fine-tuning share: weights to start from, LoRA, optimizer, length, export.

A stage file says what is its own: its data, and how it begins.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from qwell.config import GenerationConfig
from qwell.data.content import content_hash
from qwell.data.packing import PackedRows
from qwell.data.survey import Survey, survey
from qwell.errors import UsageError
from qwell.text.tokenizer import Tokenizer
from qwell.train.config import TrainConfig
from qwell.train.cost import Cost
from qwell.train.held_out import held_out
from qwell.train.logs import Share
from qwell.train.lora import LoraConfig, add_lora, save_adapter
from qwell.train.modules import Decoder
from qwell.train.objectives import NextToken
from qwell.train.optim import AdamW, AdamWConfig
from qwell.train.run import ADAPTER, MODEL, Parts
from qwell.train.weights import save_folder

DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}
COUNTED = 20_000
"""Documents encoded to find the steps of an epoch; larger sets are scaled up."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """A decoder to train and the text side that belongs to it."""

    decoder: Decoder
    tokenizer: Tokenizer
    chat_template: str | None
    generation: GenerationConfig
    note: str


def parts_of(
    config: TrainConfig,
    start: Start,
    rows: PackedRows,
    valid: PackedRows | None,
    *,
    rebuild: Callable[[], Decoder],
) -> Parts:
    """What a stage that learns the next token brings to its run; `rebuild` begins it anew."""
    objective = NextToken()
    return Parts(
        model=start.decoder,
        optimizer=adamw(config),
        source=rows,
        objective=objective,
        cost=cost_of(config, start.decoder),
        total=total_steps(config, rows),
        evaluate=lambda model, world: held_out(
            model, objective, valid.one_pass() if valid else (), world
        ),
        finish=save_learnt(config, start),
        rebuild=rebuild,
        identity=identity(start) | data_identity(rows, valid),
        notes=(start.note,),
    )


def adamw(config: TrainConfig) -> Callable[[Decoder], AdamW]:
    """The optimizer of the config, over the parameters that learn."""
    settings = AdamWConfig(
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        states="int8" if config.optimizer.startswith("8bit") else "f32",
        master="none" if config.optimizer.endswith("stochastic") else "split",
        seed=config.seed,
    )
    return lambda decoder: AdamW(decoder.named_parameters(), settings)


def total_steps(config: TrainConfig, rows: PackedRows) -> int:
    """Steps of the run: told, or as many as the epochs need."""
    return config.steps or steps_of(config, survey(rows, COUNTED))


def steps_of(config: TrainConfig, survey: Survey) -> int:
    """The same, when the data has been counted."""
    per_epoch = survey.rows / config.micro_batches
    return config.steps or max(1, math.ceil(config.epochs * per_epoch))


def cost_of(config: TrainConfig, decoder: Decoder) -> Cost:
    return Cost(decoder.config, trains_base=not config.lora_rank, lora_rank=config.lora_rank)


def lora_of(config: TrainConfig) -> LoraConfig:
    return LoraConfig(
        rank=config.lora_rank,
        alpha=config.alpha,
        targets=config.lora_targets,
        train_embeddings=config.lora_embeddings,
    )


def adapt(config: TrainConfig, decoder: Decoder) -> None:
    """Puts adapters on the decoder if the config asks for them."""
    if config.lora_rank:
        add_lora(decoder, lora_of(config), seed=config.seed)


def save_learnt(config: TrainConfig, start: Start) -> Callable[[Decoder, Path], None]:
    """Writes OUT/model, a Hugging Face folder, or for LoRA OUT/adapter in PEFT's layout."""

    def write_model(decoder: Decoder, out: Path) -> None:
        replace_folder(
            out / MODEL,
            lambda folder: save_folder(
                folder,
                decoder,
                generation=start.generation,
                tokenizer=start.tokenizer,
                chat_template=start.chat_template,
            ),
        )

    def write_adapter(decoder: Decoder, out: Path) -> None:
        replace_folder(
            out / ADAPTER,
            lambda folder: save_adapter(folder, decoder, lora_of(config), base=config.model),
        )

    return write_adapter if config.lora_rank else write_model


def replace_folder(final: Path, write: Callable[[Path], None]) -> None:
    """Writes a folder beside and puts it in the place of what an earlier end of the run left."""
    import shutil

    fresh, old = final.with_name(f"{final.name}.new"), final.with_name(f"{final.name}.old")
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    write(fresh)
    if final.exists():
        final.rename(old)
    fresh.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def ending(generation: GenerationConfig, tokenizer: Tokenizer) -> GenerationConfig:
    """The same with every end token of the tokenizer, the end of a turn first: a base model's own
    list does not name it, and who reads config.json alone takes the first."""
    turn = tokenizer.special_tokens.get("<|im_end|>")
    every = {*generation.eos_token_ids, *tokenizer.eos_ids}
    return replace(generation, eos_token_ids=tuple(sorted(every, key=lambda i: (i != turn, i))))


def identity(start: Start) -> dict[str, str]:
    """Hashes of what text goes through: a run must not go on with another tokenizer or template,
    and who serves the model can check."""
    digest = hashlib.sha256()
    for text, id in sorted(start.tokenizer.special_tokens.items()):
        digest.update(f"{text} {id} ".encode())
    for id in range(start.tokenizer.vocab_size):
        digest.update(start.tokenizer.token_bytes(id))
    template = (start.chat_template or "").encode()
    return {"tokenizer": digest.hexdigest(), "template": hashlib.sha256(template).hexdigest()}


def data_identity(rows: PackedRows, valid: PackedRows | None) -> dict[str, str]:
    """Hashes of what is learnt from and measured on: a run must not go on with edited files."""
    found = {"data": content_hash(rows.files, Share("hashing the data"))}
    return found | ({"valid": content_hash(valid.files)} if valid else {})


def need_data(config: TrainConfig) -> None:
    """Raises UsageError for a run without data."""
    if not config.data:
        raise UsageError("there is nothing to learn from: give --data FILE or FOLDER")


def need_model(config: TrainConfig) -> None:
    """Raises UsageError for a run without a model."""
    if not config.model:
        raise UsageError("there is no model to start from: give --model NAME, FOLDER or FILE.gguf")
