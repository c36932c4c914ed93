"""Fill-in-the-middle: a document cut in three, so that a model learns to write what lies between.

    PSM  <|fim_prefix|>PREFIX<|fim_suffix|>SUFFIX<|fim_middle|>MIDDLE
    SPM  <|fim_prefix|><|fim_suffix|>SUFFIX<|fim_middle|>PREFIXMIDDLE

PSM is what Qwen2.5-Coder asks for (Coder report, figure 3); SPM is the variant of Bavarian et al.
2022, section 3, that shares its tokens. The cuts fall between any two characters, so the middle may
begin inside a word, as a cursor does.
"""

from __future__ import annotations

from qwell.data.draw import below, uniform
from qwell.errors import UsageError
from qwell.text.tokenizer import Tokenizer

_TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def fim_ids(tokenizer: Tokenizer, text: str, spm_rate: float, *key: int | str) -> list[int]:
    """Ids of `text` in the one order or the other, without an end token. `key` fixes the draw."""
    cuts = sorted(below(len(text) + 1, *key, name) for name in ("first cut", "second cut"))
    prefix, middle, suffix = text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :]
    begin, before_suffix, before_middle = (tokenizer.special_tokens[t] for t in _TOKENS)
    tail = [before_suffix, *tokenizer.encode(suffix), before_middle]
    if uniform(*key, "spm") < spm_rate:
        return [begin, *tail, *tokenizer.encode(prefix + middle)]
    return [begin, *tokenizer.encode(prefix), *tail, *tokenizer.encode(middle)]


def check_fim(tokenizer: Tokenizer) -> None:
    """Raises UsageError if the tokenizer has no tokens for it."""
    missing = [token for token in _TOKENS if token not in tokenizer.special_tokens]
    if missing:
        raise UsageError(f"this tokenizer has no {missing[0]}: leave fill-in-the-middle out")
