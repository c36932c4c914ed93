"""A tokenizer learnt from text in the manner of Qwen2: byte-level BPE behind NFC and Qwen's split
pattern, then Qwen2.5's 22 control tokens. `tokenizers` counts and merges; what comes out is a
Vocabulary like that of any checkpoint, so everything that reads Qwen's reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qwell.checkpoint.appear import appearing_folder, check_folder
from qwell.errors import DataError, UsageError
from qwell.text.bpe import chunks, pipeline
from qwell.text.files import hf_files
from qwell.text.template import ChatTemplate
from qwell.text.tokenizer import Tokenizer
from qwell.text.vocabulary import BYTE_OF, checked

_PAIRED = ("object_ref", "box", "quad")
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *(f"<|{name}_{side}|>" for name in _PAIRED for side in ("start", "end")),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
"""Control tokens that are left out of decoded text, in the order of their ids."""
VISIBLE = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
"""Control tokens a model writes as part of its text; their ids follow."""
LONGEST = 128
"""Bytes of the longest token, as in Qwen's vocabulary."""
_CONTROLS = len(SPECIAL) + len(VISIBLE)
_MARK = "tokenizer.json"


def learn_tokenizer(
    texts: Iterable[str], *, vocab_size: int, end: str = "<|im_end|>", show_progress: bool = False
) -> Tokenizer:
    """A tokenizer of vocab_size tokens: 256 bytes, merges, 22 control tokens. Texts are read once;
    what is held is how often each piece of the split pattern occurs. The same texts in the same
    order give the same tokenizer. `end`: what ends a reply.

    Raises UsageError for a size without merges, DataError if the texts give fewer.
    """
    wanted = vocab_size - _CONTROLS
    if wanted <= len(BYTE_OF):
        least = len(BYTE_OF) + _CONTROLS + 1
        raise UsageError(f"a vocabulary of {vocab_size} tokens has no merges: give {least} or more")
    model = _learnt(texts, wanted, show_progress)
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    if len(tokens) < wanted:
        raise DataError(
            f"the texts give {len(tokens) + _CONTROLS:,} tokens, not {vocab_size:,}: give more "
            "text or a smaller vocabulary"
        )
    names = (*SPECIAL, *VISIBLE)
    added = [(name, len(tokens) + i) for i, name in enumerate(names)]
    return Tokenizer(
        checked(
            tokens,
            _first_merges(model["merges"]),
            added,
            [i for name, i in added if name in SPECIAL],
            eos=dict(added)[end],
            where="the learnt tokenizer",
        )
    )


def check_place(folder: Path, *, force: bool) -> None:
    """Raises UsageError before anything is learnt if `save_tokenizer` would refuse the folder."""
    check_folder(folder, force, _MARK)


def save_tokenizer(
    tokenizer: Tokenizer, template: ChatTemplate, folder: Path, *, force: bool = False
) -> None:
    """A folder with tokenizer.json, tokenizer_config.json (the chat template in it), vocab.json and
    merges.txt, as transformers and `Tokenizer.from_folder` read it; whole or not at all.

    force: replaces a folder of this kind. Raises UsageError, StorageError."""
    with appearing_folder(folder, force=force, mark=_MARK) as unfinished:
        for name, raw in hf_files(tokenizer, template.source).items():
            (unfinished / name).write_bytes(raw)


def _learnt(texts: Iterable[str], size: int, show_progress: bool) -> dict[str, Any]:
    """The model of a tokenizer.json: vocab and merges."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models, trainers

    library = Library(models.BPE())
    library.normalizer, library.pre_tokenizer = pipeline()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=list(BYTE_OF),
        max_token_length=LONGEST,
        show_progress=show_progress,
        special_tokens=[],
    )
    library.train_from_iterator(_parts(texts), trainer)
    found: dict[str, Any] = json.loads(library.to_str())["model"]
    return found


def _parts(texts: Iterable[str]) -> Iterator[str]:
    """Texts in chunks no piece of the pattern spans; the library holds whole ones otherwise."""
    for text in texts:
        yield from chunks(text)


def _first_merges(merges: list[list[str] | str]) -> list[str]:
    """Merges without those whose result an earlier one makes already. An id is a rank in every
    Qwen vocabulary, so a token has one merge; the library may learn a second way to it."""
    lines = [m if isinstance(m, str) else " ".join(m) for m in merges]
    first: dict[str, str] = {}
    for line in lines:
        first.setdefault(line.replace(" ", ""), line)
    return list(first.values())
