"""A tokenizer as the files of a checkpoint: those of a Hugging Face folder, or the keys of a GGUF.

The inverse of sources.py, which reads both again.
"""

from __future__ import annotations

import json
from typing import Any

from qwell.errors import CheckpointError
from qwell.text.sources import CONTROL, NORMAL, PATTERN, UNUSED, USER_DEFINED
from qwell.text.tokenizer import Tokenizer
from qwell.text.vocabulary import Vocabulary

_PAD = "<|endoftext|>"


def hf_files(tokenizer: Tokenizer, chat_template: str | None) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json, vocab.json and merges.txt, by name."""
    vocabulary = tokenizer.vocabulary
    vocab = {token: i for i, token in enumerate(vocabulary.tokens())}
    merges = "\n".join(["#version: 0.2", *vocabulary.merges]) + "\n"
    return {
        "tokenizer.json": _json(_tokenizer_json(vocabulary, vocab)),
        "tokenizer_config.json": _json(_tokenizer_config(vocabulary, chat_template)),
        "vocab.json": _json(vocab),
        "merges.txt": merges.encode(),
    }


def _json(values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=False, indent=1).encode()


def _added(vocabulary: Vocabulary) -> dict[int, dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    by_id = sorted(vocabulary.added.items(), key=lambda item: item[1])
    return {i: {"content": text, **flags, "special": i in vocabulary.special} for text, i in by_id}


def _tokenizer_json(vocabulary: Vocabulary, vocab: dict[str, int]) -> dict[str, Any]:
    levels = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    byte_level = {**levels, "trim_offsets": False}
    split = {
        "type": "Split",
        "pattern": {"Regex": PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **entry} for i, entry in _added(vocabulary).items()],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [merge.split(" ") for merge in vocabulary.merges],
        },
    }


def _tokenizer_config(vocabulary: Vocabulary, chat_template: str | None) -> dict[str, Any]:
    names = {i: text for text, i in vocabulary.added.items()}
    end = None if vocabulary.eos is None else names.get(vocabulary.eos)
    values = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): entry for i, entry in _added(vocabulary).items()},
        "additional_special_tokens": [names[i] for i in sorted(vocabulary.special)],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": end,
        "errors": "replace",
        "pad_token": _PAD if _PAD in vocabulary.added else end,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    return values if chat_template is None else values | {"chat_template": chat_template}


def gguf_keys(
    tokenizer: Tokenizer, chat_template: str | None, vocab_size: int
) -> dict[str, object]:
    """The `tokenizer.*` keys of a GGUF file; ids up to vocab_size that are no token are padding.

    Raises CheckpointError if the model has fewer rows than the tokenizer has tokens."""
    vocabulary = tokenizer.vocabulary
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens but the model {vocab_size:,} rows: "
            "they do not belong together"
        )
    tokens = [*vocabulary.tokens(), *(f"[PAD{i}]" for i in range(vocabulary.size, vocab_size))]
    types = [NORMAL] * vocabulary.size + [UNUSED] * (vocab_size - vocabulary.size)
    for text, i in vocabulary.added.items():
        tokens[i], types[i] = text, CONTROL if i in vocabulary.special else USER_DEFINED
    ggml: dict[str, object] = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": tokens,
        "token_type": types,
        "merges": list(vocabulary.merges),
        "add_bos_token": False,
    }
    if vocabulary.eos is not None:
        ggml["eos_token_id"] = vocabulary.eos
    if _PAD in vocabulary.added:
        ggml["padding_token_id"] = ggml["bos_token_id"] = vocabulary.added[_PAD]
    keys = {f"tokenizer.ggml.{key}": value for key, value in ggml.items()}
    return keys if chat_template is None else keys | {"tokenizer.chat_template": chat_template}
