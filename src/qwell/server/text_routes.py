"""/tokenize, /detokenize, /tokenizer_info, /apply_template: how the model reads a text."""

from __future__ import annotations

from typing import Any

from qwell.server.chat import chat_ids
from qwell.server.errors import ApiError
from qwell.server.exchange import Json
from qwell.server.requests import DetokenizeRequest, TemplateRequest, TokenizeRequest
from qwell.server.served import Served

_ENDS = ("<|im_end|>", "<|endoftext|>")


def tokenize(served: Served, request: TokenizeRequest) -> Json:
    """Ids of a raw text or of a chat."""
    tokenizer = served.llm.tokenizer
    if (request.prompt is None) == (request.messages is None):
        raise ApiError(400, "give either prompt or messages", "prompt")
    if request.prompt is not None:
        ids = tokenizer.encode(request.prompt, allow_special=request.allow_special)
    else:
        ids = chat_ids(
            served,
            request.messages or (),
            list(request.tools) if request.tools else None,
            add_generation_prompt=request.add_generation_prompt,
        )
    told: Json = {"count": len(ids), "max_model_len": served.llm.max_context, "tokens": ids}
    if request.return_token_strs:
        told["token_strs"] = [tokenizer.decode([token]) for token in ids]
    return told


def detokenize(served: Served, request: DetokenizeRequest) -> Json:
    size = served.llm.config.vocab_size
    for i, token in enumerate(request.tokens):
        if token >= size:
            raise ApiError(400, f"tokens[{i}] is {token}: ids end at {size - 1}", f"tokens[{i}]")
    text = served.llm.tokenizer.decode(request.tokens, skip_special=request.skip_special)
    return {"prompt": text}


def apply_template(served: Served, request: TemplateRequest) -> Json:
    """The chat as the model gets it, as text and as ids."""
    ids = chat_ids(
        served,
        request.messages,
        list(request.tools) if request.tools else None,
        request.chat_template_kwargs,
        add_generation_prompt=request.add_generation_prompt,
    )
    return {"prompt": served.llm.tokenizer.decode(ids), "tokens": ids, "count": len(ids)}


def tokenizer_info(served: Served) -> Json:
    """Facts a client needs to count and cut as the server does."""
    tokenizer, template = served.llm.tokenizer, served.llm.template
    named = {i: text for text, i in tokenizer.special_tokens.items()}
    ends: list[Any] = [text for text in _ENDS if text in tokenizer.special_tokens]
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "vocab_size": tokenizer.vocab_size,
        "model_max_length": served.llm.max_context,
        "bos_token": None,
        "eos_token": ends[0] if ends else None,
        "pad_token": ends[-1] if ends else None,
        "eos_token_ids": sorted(served.llm.engine.eos_ids),
        "added_tokens": {text: i for i, text in sorted(named.items())},
        "chat_template": template.source if template else None,
        "template_id": served.template_id,
    }
