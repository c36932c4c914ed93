"""A tokenizer -> the files transformers and vLLM read: tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwell.text.tokenizer import Tokenizer

END_OF_TEXT = "<|endoftext|>"
_LONGEST = 131_072


def write_tokenizer(folder: Path, tokenizer: Tokenizer, chat_template: str | None) -> None:
    """Writes both files into `folder`. Raises OSError."""
    tokenizer.library().save(str(folder / "tokenizer.json"))
    text = json.dumps(tokenizer_config(tokenizer, chat_template), indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def tokenizer_config(tokenizer: Tokenizer, chat_template: str | None) -> dict[str, Any]:
    """The keys of the official files. The end token of a chat model is the one its replies end
    with; padding is <|endoftext|>, as in every Qwen2.5."""
    eos = tokenizer.eos
    entries = {
        str(i): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": i in tokenizer.special_ids,
        }
        for text, i in sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    }
    found: dict[str, Any] = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": entries,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "errors": "replace",
        "model_max_length": _LONGEST,
        "pad_token": END_OF_TEXT if END_OF_TEXT in tokenizer.special_tokens else eos,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    return found | ({"chat_template": chat_template} if chat_template else {})
