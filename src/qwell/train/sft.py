"""Supervised fine-tuning: the assistant's turns of conversations are learnt (TR, section 4.1).

    qwell train sft --model qwen2.5-coder:0.5b --data chats.jsonl --lora-rank 16

Conversations are rendered by the chat template the model will be served with, and which tokens
count comes from that rendering. Leaves OUT/model, or OUT/adapter for LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qwell.data.packing import PackedRows
from qwell.data.sources import sft_rows
from qwell.errors import ContextLengthError, NotFoundError, TextError
from qwell.text.plain import file_text
from qwell.text.template import ChatTemplate
from qwell.text.tokenizer import Tokenizer
from qwell.train.config import SftConfig
from qwell.train.run import Parts, Result, run
from qwell.train.stage import DTYPES, Start, adapt, ending, need_data, need_model, parts_of
from qwell.train.weights import load_decoder
from qwell.train.world import World


def main(config: SftConfig) -> Result:
    """The whole stage: runs, or goes on, and leaves OUT/model or OUT/adapter."""
    need_data(config)
    need_model(config)
    return run(config, lambda world: parts(config, world))


def parts(config: SftConfig, world: World) -> Parts:  # noqa: ARG001 (every stage has it)
    """What this stage brings to its run: the model, its rows, what is learnt of them."""
    start = begin(config)
    assert start.chat_template is not None
    text_side = start.tokenizer, ChatTemplate(start.chat_template)
    rows = rows_of(config, config.data, *text_side)
    valid = rows_of(config, config.valid, *text_side, is_held_out=True) if config.valid else None
    return parts_of(config, start, rows, valid, rebuild=lambda: begin(config).decoder)


def begin(config: SftConfig) -> Start:
    """The model, with adapters on it for LoRA."""
    loaded = load_decoder(
        config.model,
        dtype=DTYPES[config.dtype],
        recompute=config.recompute,
        packed=config.qlora or None,
    )
    longest = loaded.decoder.config.max_position_embeddings
    if config.context > longest:
        raise ContextLengthError(config.context, longest)
    adapt(config, loaded.decoder)
    return Start(
        decoder=loaded.decoder,
        tokenizer=loaded.tokenizer,
        chat_template=read_template(config, loaded.chat_template).source,
        generation=ending(loaded.generation, loaded.tokenizer),
        note=loaded.note,
    )


def read_template(config: SftConfig, own: str | None) -> ChatTemplate:
    """The template of the config, else the model's own. Raises TextError without either."""
    if config.template:
        try:
            own = file_text(Path(config.template).read_bytes())
        except (OSError, ValueError) as error:
            raise NotFoundError(f"{config.template} cannot be read ({error})") from error
    if own is None:
        raise TextError("the model has no chat template: give one with --template FILE")
    return ChatTemplate(own)


def rows_of(
    config: SftConfig,
    paths: Sequence[str],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    *,
    is_held_out: bool = False,
) -> PackedRows:
    """Conversations of `paths` as packed rows; held-out ones in their own order, once each."""
    return sft_rows(
        paths,
        tokenizer,
        template,
        tokens=config.context,
        seed=config.seed,
        weights=None if is_held_out else config.weights or None,
        format=config.format or None,
        overlong=config.overlong,
        learn=config.learn,
        shuffle=not is_held_out,
    )
