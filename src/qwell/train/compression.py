"""Bits per byte: how well a model compresses text, against a compressor.

Every byte of the text is paid for. A document's first token is charged as one of the whole
vocabulary, since nothing stands before it; long documents are read in windows, each a quarter
further, so that later tokens have at least three quarters of the context before them.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from qwell.data.rows import Rows
from qwell.text.tokenizer import Tokenizer
from qwell.train.modules import Decoder
from qwell.train.objectives import NextToken

STRIDES = 4
"""Windows that overlap: each begins so many parts of the context after the one before."""


@torch.no_grad()
def bits_per_byte(
    decoder: Decoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    context: int,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> float:
    """Of all texts together: the model's code length over their UTF-8 bytes."""
    objective, nats, size = NextToken(), 0.0, 0
    for at, text in enumerate(texts):
        ids = np.array(tokenizer.encode(text), np.int32)
        size += len(text.encode())
        nats += math.log(tokenizer.vocab_size) if len(ids) else 0.0
        for rows in windows(ids, context):
            nats += float(objective.loss(decoder, rows, 1.0))
        progress(at + 1, len(texts))
    return nats / math.log(2) / size


def windows(ids: np.ndarray, context: int) -> Iterator[Rows]:
    """Every token after the first is a target of exactly one of the rows."""
    start, read = 0, 1
    while read < len(ids):
        stop = min(start + context, len(ids))
        is_target = np.zeros(stop - start, bool)
        is_target[read - start :] = True
        yield Rows(ids[start:stop], np.array([0, stop - start], np.int32), is_target)
        start, read = start + max(1, context // STRIDES), stop


def xz_bits_per_byte(texts: Iterable[str], *, extreme: bool = False) -> float:
    """What `xz -9` (with extreme: `xz -9e`) makes of the texts, end to end in one file."""
    raw = "".join(texts).encode()
    packed = lzma.compress(raw, preset=9 | (lzma.PRESET_EXTREME if extreme else 0))
    return 8 * len(packed) / len(raw)
