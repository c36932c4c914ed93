"""Text and ids: the Qwen tokenizer, chat templates, and text out of a stream of ids.

    Tokenizer.from_gguf | from_folder | from_file     text <-> ids
    encode_chat(tokenizer, template, messages)        a chat -> ids; typed control tokens stay text
    Detokenizer(tokenizer).push(id)                   ids -> text while they arrive

The room knows no tensors and no network; jinja2 and tokenizers are imported when first needed.
"""

from __future__ import annotations

from qwell.text.chat import encode_chat
from qwell.text.detokenize import Detokenizer
from qwell.text.template import ChatTemplate, find_template
from qwell.text.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Detokenizer", "Tokenizer", "encode_chat", "find_template"]
