"""What is wrong with a run before its first step: the data's faults and the run's own.

`data/doctor.py` looks at rows; here they meet the model and the config. An error stops the run
unless it is told to go on; a warning is printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from qwell.checkpoint import Checkpoint, open_checkpoint
from qwell.checkpoint.names import EMBEDDING, HEAD
from qwell.data.doctor import Finding, check_rows, check_untrained, overlap, template_drift
from qwell.data.folder import open_records
from qwell.data.packing import PackedRows
from qwell.data.records import Records
from qwell.engine.packed import facts_of, tokenizer_of
from qwell.errors import DataError, TrainingError
from qwell.hub.resolve import resolve
from qwell.text.template import ChatTemplate
from qwell.text.tokenizer import Tokenizer
from qwell.train import pretrain, sft
from qwell.train.config import PretrainConfig, SftConfig, TrainConfig
from qwell.train.dry_run import look
from qwell.train.schedule import lr_at
from qwell.train.stage import steps_of

LEAST_TRAVEL = 1e-5
"""Adam moves a weight by at most about the rate in a step; the weights of a model of this family
are of the order of 0.02, so runs whose rates add up to less change nothing that can be seen."""
GREATEST_LR = 0.02
DEADLY = ("wrong record", "over-long row")
"""Errors a run would meet again at that row, an over-long one unless overlong says to drop it."""
LIMIT = 5000
"""Documents a check reads at most."""


def examine(config: PretrainConfig | SftConfig, *, is_quick: bool = False) -> list[Finding]:
    """Every finding, errors first. is_quick: leaves out the comparison of every document of
    pre-training with those held out, which takes as long as reading them."""
    total = config.steps
    if not total and config.data and isinstance(config, SftConfig):
        with suppress(DataError):  # what is wrong with the rows is told with the row below
            total = steps_of(config, look(config)[1])
    found = [*rates(config, total), *_adapter(config), *_data(config, is_quick)]
    return sorted(found, key=lambda finding: finding.level != "error")


def refuse(
    findings: list[Finding],
    advice: str = "see qwell train doctor, or start all the same with --ignore-doctor",
) -> None:
    """Raises TrainingError for the first error. What the run itself refuses, sooner or later, is
    told first and cannot be ignored away."""
    errors = [finding for finding in findings if finding.level == "error"]
    deadly = [finding for finding in errors if finding.name in DEADLY]
    if deadly:
        first, advice = deadly[0], "the run would end there, --ignore-doctor or not"
    elif errors:
        first = errors[0]
    else:
        return
    raise TrainingError(f"{first.message} ({first.name}); {advice}")


def report(findings: list[Finding]) -> str:
    """For people: every finding with its row."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level}: {finding.name}: {finding.message}")
        lines += [f"    {line}" for line in finding.shown.splitlines()[:20]]
    return "\n".join(lines) or "nothing is wrong"


def rates(config: TrainConfig, total: int) -> Iterator[Finding]:
    """Learning rates that teach nothing, or destroy."""
    if config.lr > GREATEST_LR:
        yield _error("learning rate", f"lr {config.lr:g} destroys any model: take 1e-5 to 1e-2")
    if not total:
        return
    if config.warmup_steps >= total:
        yield _error(
            "dead learning rate",
            f"the rate would rise for {config.warmup_steps:,} steps but there are {total:,}: "
            f"take --warmup-steps {max(1, total // 20)}",
        )
    some = range(0, total, max(1, total // 1000))
    travel = sum(lr_at(config, step, total) for step in some) * total / len(some)
    if travel < LEAST_TRAVEL:
        yield _error(
            "dead learning rate",
            f"the rates of all {total:,} steps add up to {travel:.1e}, no weight could move "
            "farther than that: raise --lr or --steps",
        )


def _adapter(config: TrainConfig) -> Iterator[Finding]:
    """The engine computes low-rank adapters alone; better known before a run than after."""
    if config.lora_embeddings:
        message = (
            "qwell run and serve take no adapter with whole embeddings: write the merged model "
            "with qwell merge, and give that"
        )
        yield Finding("adapter to be merged", "warning", message)


def _data(config: PretrainConfig | SftConfig, is_quick: bool) -> Iterator[Finding]:
    if not config.data:
        return
    if isinstance(config, PretrainConfig):
        if not is_quick:
            yield from _texts(config)
    else:
        yield from _chats(config)


def _texts(config: PretrainConfig) -> Iterator[Finding]:
    shape = pretrain.model_config(config)
    if shape is None:
        tokenizer = tokenizer_of(open_checkpoint(resolve(config.model).paths))
    else:
        tokenizer = pretrain.text_side(config.tokenizer or config.model)[0]
    yield from _overlap(config, tokenizer)


def _chats(config: SftConfig) -> Iterator[Finding]:
    checkpoint = open_checkpoint(resolve(config.model).paths)
    tokenizer, own = tokenizer_of(checkpoint), facts_of(checkpoint).chat_template
    template = sft.read_template(config, own)
    rows = sft.rows_of(config, config.data, tokenizer, template)
    yield from check_rows(rows, tokenizer, LIMIT)
    if own and config.template:
        yield from template_drift(template, ChatTemplate(own))
    yield from _untrained(config, checkpoint, rows, tokenizer)
    yield from _overlap(config, tokenizer)


def _untrained(
    config: SftConfig, checkpoint: Checkpoint, rows: PackedRows, tokenizer: Tokenizer
) -> Iterator[Finding]:
    """LoRA on a base model: the row of the end token was never trained and adapters do not reach
    it (Qwen3#1064). With every weight learning, or the embeddings, it is learnt on the way."""
    name = HEAD if HEAD in checkpoint.tensors else EMBEDDING
    for finding in check_untrained(checkpoint.tensors[name], tokenizer, rows):
        if not config.lora_rank or config.lora_embeddings:
            continue
        message = f"{finding.message}: give --lora-embeddings or train without LoRA"
        yield Finding("LoRA on a base model", finding.level, message, finding.shown, finding.count)


def _overlap(config: TrainConfig, tokenizer: Tokenizer) -> Iterator[Finding]:
    """Held-out data that is learnt from measures memory."""
    for valid in config.valid:
        for data in config.data:
            yield from overlap(
                _records(data, config), _records(valid, config), tokenizer, limit=LIMIT // 10
            )


def _records(path: str, config: TrainConfig) -> Records:
    return open_records(path, texts=isinstance(config, PretrainConfig)).records


def _error(name: str, message: str) -> Finding:
    return Finding(name, "error", message)
