"""The two kinds of rows a training run is started with, from the paths a user gave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qwell.data.chat import ChatExamples
from qwell.data.example import Examples
from qwell.data.folder import open_records
from qwell.data.mixture import Mixture
from qwell.data.packing import Overlong, PackedRows
from qwell.data.parquet import held_groups
from qwell.data.texts import TextExamples
from qwell.text.template import ChatTemplate
from qwell.text.tokenizer import Tokenizer

Paths = Sequence[str | Path]


def pretrain_rows(
    paths: Paths,
    tokenizer: Tokenizer,
    *,
    tokens: int,
    seed: int = 0,
    weights: Sequence[float] | None = None,
    fim_rate: float = 0.0,
    spm_rate: float = 0.5,
    field: str | None = None,
    shuffle: bool = True,
) -> PackedRows:
    """Rows of at most `tokens` tokens in which everything is learnt, from text, code, JSON lines
    or Parquet; documents longer than a row are split and counted.

    weights: one per path, its share of the tokens; without them an epoch is every document once.
    field: where the text of an object stands. fim_rate, spm_rate: see TextExamples.
    Raises NotFoundError, DataError, UsageError.
    """
    sources: list[Examples] = []
    files: list[Path] = []
    groups = held_groups() if weights is None else None  # without weights they are shuffled as one
    for i, path in enumerate(paths):
        records = open_records(path, read_group=groups).records
        files += records.paths
        sources.append(
            TextExamples(
                records,
                tokenizer,
                field=field,
                seed=seed + i,
                fim_rate=fim_rate,
                spm_rate=spm_rate,
            )
        )
    mixture = Mixture(sources, weights, seed=seed, shuffle=shuffle)
    return PackedRows(mixture, tokens_per_row=tokens, files=files)


def sft_rows(
    paths: Paths,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    *,
    tokens: int,
    seed: int = 0,
    weights: Sequence[float] | None = None,
    format: str | None = None,
    overlong: Overlong = "refuse",
    learn: str = "all",
    shuffle: bool = True,
) -> PackedRows:
    """Rows of at most `tokens` tokens in which the assistant's turns are learnt.

    format: "messages", "sharegpt" or "alpaca"; else that of each path's first record.
    overlong: a conversation longer than a row is refused, or left out and counted ("drop").
    learn: "all" turns of the assistant, or the "last". Raises NotFoundError, DataError, UsageError.
    """
    sources: list[Examples] = []
    files: list[Path] = []
    groups = held_groups() if weights is None else None  # without weights they are shuffled as one
    for path in paths:
        records = open_records(path, texts=False, read_group=groups).records
        files += records.paths
        sources.append(ChatExamples(records, tokenizer, template, form=format, learn=learn))
    mixture = Mixture(sources, weights, seed=seed, shuffle=shuffle)
    return PackedRows(mixture, tokens_per_row=tokens, overlong=overlong, files=files)
