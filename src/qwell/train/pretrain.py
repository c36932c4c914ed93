"""Pre-training: every token of raw text and code is learnt (TR, section 3).

    qwell train pretrain --recipe pretrain-0.5b --data corpus/ --valid held_out.jsonl

Starts from new weights of a size (0.5b ... 72b), or of a config.json of one's own, or goes on from
a model. The long-context stage is the same with another context and rope_theta (ABF, TR 3.3).
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from qwell.config import GenerationConfig, ModelConfig
from qwell.data.packing import PackedRows
from qwell.data.sources import pretrain_rows
from qwell.errors import NotFoundError, UsageError
from qwell.model.weights import Rope
from qwell.text.template import ChatTemplate, find_template
from qwell.text.tokenizer import Tokenizer
from qwell.train.config import PretrainConfig
from qwell.train.modules import Decoder
from qwell.train.recipes import SIZES
from qwell.train.run import Parts, Result, run
from qwell.train.stage import DTYPES, Start, adapt, need_data, parts_of
from qwell.train.weights import init_decoder, load_decoder
from qwell.train.world import World


def main(config: PretrainConfig) -> Result:
    """The whole stage: runs, or goes on, and leaves OUT/model."""
    need_data(config)
    return run(config, lambda world: parts(config, world))


def parts(config: PretrainConfig, world: World) -> Parts:  # noqa: ARG001 (every stage has it)
    """What this stage brings to its run: the model, its rows, what is learnt of them."""
    start = begin(config)
    return parts_of(
        config,
        start,
        train_rows(config, start.tokenizer),
        valid_rows(config, start.tokenizer),
        rebuild=lambda: begin(config).decoder,
    )


def train_rows(config: PretrainConfig, tokenizer: Tokenizer) -> PackedRows:
    return pretrain_rows(
        config.data,
        tokenizer,
        tokens=config.context,
        seed=config.seed,
        weights=config.weights or None,
        fim_rate=config.fim_rate,
    )


def valid_rows(config: PretrainConfig, tokenizer: Tokenizer) -> PackedRows | None:
    if not config.valid:
        return None
    return pretrain_rows(config.valid, tokenizer, tokens=config.context, shuffle=False)


def begin(config: PretrainConfig) -> Start:
    """New weights for a size or a config.json, else those of the model."""
    shape = model_config(config)
    return _go_on(config) if shape is None else _anew(config, shape)


def _go_on(config: PretrainConfig) -> Start:
    loaded = load_decoder(
        config.model,
        dtype=DTYPES[config.dtype],
        recompute=config.recompute,
        packed=config.qlora or None,
    )
    decoder = loaded.decoder
    set_theta(decoder, config.rope_theta or decoder.config.rope_theta, config.context)
    adapt(config, decoder)
    return Start(
        decoder=decoder,
        tokenizer=loaded.tokenizer,
        chat_template=loaded.chat_template,
        generation=loaded.generation,
        note=loaded.note,
    )


def _anew(config: PretrainConfig, shape: ModelConfig) -> Start:
    if not config.tokenizer:
        raise UsageError("new weights need a tokenizer: give --tokenizer FOLDER or MODEL")
    tokenizer, template = text_side(config.tokenizer)
    if tokenizer.vocab_size > shape.vocab_size:
        raise UsageError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids but the model {shape.vocab_size:,}"
        )
    return Start(
        decoder=init_decoder(
            shape,
            seed=config.seed,
            dtype=DTYPES[config.dtype],
            recompute=config.recompute,
            std=config.init_std,
        ),
        tokenizer=tokenizer,
        chat_template=template,
        generation=GenerationConfig(
            eos_token_ids=tuple(sorted(tokenizer.eos_ids)), temperature=1.0, top_p=1.0, top_k=0
        ),
        note=f"new weights, {shape.num_parameters:,} parameters",
    )


def model_config(config: PretrainConfig) -> ModelConfig | None:
    """The shape of new weights: of a size, or of a config.json; None to go on from a model."""
    path = Path(config.model)
    if config.model in SIZES:
        shape = _of_size(config.model, config.context)
    elif path.suffix == ".json":
        shape = _of_file(path)
    elif _is_shape_alone(path):
        raise UsageError(
            f"{path} holds no weights: for new ones of its shape give --model {path}/config.json"
        )
    elif config.model:
        return None
    else:
        raise UsageError(
            f"there is no model: give --model with a size ({', '.join(SIZES)}), a config.json, or "
            "a model to go on from"
        )
    if config.lora_rank:
        raise UsageError(
            "LoRA learns beside weights that are there, but these are new: leave out --lora-rank, "
            "or give --model with a model to go on from"
        )
    theta = config.rope_theta or shape.rope_theta
    longest = max(config.context, shape.max_position_embeddings)
    return replace(shape, rope_theta=theta, max_position_embeddings=longest)


def _is_shape_alone(path: Path) -> bool:
    """Not so for the folder of a run, whose config.json is the run's: `resolve` tells of that."""
    has_weights = any(path.glob("*.safetensors")) or (path / "model").is_dir()
    return (path / "config.json").is_file() and not has_weights


def _of_size(name: str, context: int) -> ModelConfig:
    size = SIZES[name]
    return ModelConfig(
        **asdict(size),
        head_dim=size.hidden_size // size.num_attention_heads,
        max_position_embeddings=max(context, 4096),
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
    )


def _of_file(path: Path) -> ModelConfig:
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise NotFoundError(f"{path} cannot be read as a config ({error})") from error
    return ModelConfig.from_dict(raw, str(path))


def set_theta(decoder: Decoder, theta: float, context: int) -> None:
    """Another base of the rotary angles: adjusted base frequency (arXiv:2309.16039)."""
    longest = max(context, decoder.config.max_position_embeddings)
    decoder.config = replace(decoder.config, rope_theta=theta, max_position_embeddings=longest)
    decoder.model.rope = Rope(decoder.config.head_dim, theta)


def text_side(where: str) -> tuple[Tokenizer, str | None]:
    """Tokenizer and chat template of a folder (which need hold no weights) or a model."""
    if Path(where).is_dir():
        return Tokenizer.from_folder(Path(where)), find_template(Path(where))
    from qwell.engine.load import load_tokenizer

    return load_tokenizer(where), ChatTemplate.chatml().source
