"""`--dry-run`: what a recipe would do on this machine, and where its numbers come from."""

from __future__ import annotations

from dataclasses import fields

from qwell.checkpoint import open_checkpoint
from qwell.config import ModelConfig
from qwell.data.packing import PackedRows
from qwell.data.survey import Survey, survey
from qwell.engine.memory import available_bytes
from qwell.engine.packed import facts_of, tokenizer_of
from qwell.errors import UsageError
from qwell.hub.resolve import resolve
from qwell.text.tokenizer import Tokenizer
from qwell.train import pretrain, sft
from qwell.train.config import PretrainConfig, SftConfig, TrainConfig
from qwell.train.estimate import check_fits, estimate, memory_of
from qwell.train.recipes import Recipe
from qwell.train.stage import need_model

SEEN = 2000
"""Documents that are encoded to count the data; of larger sets the rest is taken as alike."""


def dry_run(recipe: Recipe) -> str:
    """A page of text. Raises MemoryBudgetError if the run cannot fit, and what bad data raises."""
    from qwell.train.doctor import rates, report  # it looks through this module itself

    config = recipe.config
    model, counted = look(config)
    found = estimate(config, model, counted)
    parts = [f"recipe {recipe.name}", sources(recipe), data_line(config, counted), found.table()]
    if wrong := [*rates(config, found.steps)]:  # or the run would be refused after all
        parts.append(report(wrong))
    return "\n".join(parts)


def look(config: PretrainConfig | SftConfig) -> tuple[ModelConfig, Survey]:
    """The model's shape and the counted data; no weight is read."""
    model, tokenizer, template = _text_side(config)
    if not config.data or tokenizer is None:
        return model, _unknown(config)
    if isinstance(config, PretrainConfig):
        rows: PackedRows = pretrain.train_rows(config, tokenizer)
    else:
        rows = sft.rows_of(config, config.data, tokenizer, sft.read_template(config, template))
    return model, survey(rows, SEEN)


def _text_side(
    config: PretrainConfig | SftConfig,
) -> tuple[ModelConfig, Tokenizer | None, str | None]:
    if isinstance(config, PretrainConfig) and (shape := pretrain.model_config(config)):
        tokenizer = pretrain.text_side(config.tokenizer)[0] if config.tokenizer else None
        if config.data and tokenizer is None:
            raise UsageError("new weights need a tokenizer: give --tokenizer FOLDER or MODEL")
        return shape, tokenizer, None
    need_model(config)
    checkpoint = open_checkpoint(resolve(config.model).paths)
    return checkpoint.config, tokenizer_of(checkpoint), facts_of(checkpoint).chat_template


def _unknown(config: TrainConfig) -> Survey:
    """Full rows, when there is no data to count yet."""
    if not config.steps:
        raise UsageError("give --data, or --steps to reckon without it")
    tokens = config.steps * config.tokens_per_step
    documents = config.steps * config.micro_batches
    return Survey(
        documents=documents,
        tokens=tokens,
        targets=tokens - documents,
        rows=documents,
        overlong=0,
        longest=config.context,
        longest_place="",
        is_estimate=True,
    )


def data_line(config: TrainConfig, counted: Survey) -> str:
    if not config.data:
        return "data        none given: full rows are assumed"
    about = "about " if counted.is_estimate else ""
    line = (
        f"data        {counted.documents:,} documents, {about}{counted.tokens:,} tokens, "
        f"{about}{counted.rows:,} rows of {config.context:,}"
    )
    if counted.overlong:
        line += f"; {about}{counted.overlong:,} are longer, the longest {counted.longest:,} tokens"
        line += f" ({counted.longest_place})"
        if isinstance(config, SftConfig) and config.overlong == "refuse":
            line += ": the run refuses them unless you give --overlong drop or a larger --context"
    return line


def sources(recipe: Recipe) -> str:
    """Every value that is not a default or is published, and who says so."""
    defaults = type(recipe.config)()
    published, chosen = [], []
    for field in fields(recipe.config):
        value = getattr(recipe.config, field.name)
        text = f"{field.name} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
        if field.name in recipe.published:
            published.append(f"{text} ({recipe.published[field.name]})")
        elif value != getattr(defaults, field.name) or field.name in _ALWAYS:
            chosen.append(text)
    told = "; ".join(published) or "nothing: the reports give none"
    return f"published   {told}\nchosen here {'; '.join(chosen)}"


_ALWAYS = ("micro_batches", "lr", "schedule", "warmup_steps", "optimizer")


def fit(config: PretrainConfig | SftConfig) -> None:
    """Raises MemoryBudgetError if the run has no room on this machine."""
    check_fits(config, memory_of(config, _text_side(config)[0]), available_bytes())
