"""Where a vocabulary comes from: GGUF metadata, tokenizer.json, or vocab.json with merges.txt.

Each reader checks that the source describes Qwen's own pipeline (NFC, its split pattern, byte-level
BPE, nothing added at the ends) and refuses by name what would give other ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwell.errors import CheckpointError, NotFoundError, UnsupportedModelError
from qwell.text.vocabulary import Vocabulary, checked, read_json

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen cuts text into pieces before merging: GPT-4's pattern with one digit a piece."""

_FIM = {
    f"<|{name}|>"
    for name in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep")
}
"""GGUF writers call these control tokens; the official tokenizer keeps them in decoded text."""

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types of GGUF."""


def from_gguf(metadata: Mapping[str, object]) -> Vocabulary:
    """The vocabulary in the `tokenizer.ggml.*` keys of a GGUF file; padding rows are dropped.

    Raises CheckpointError for damaged keys, UnsupportedModelError for another kind of tokenizer.
    """
    where = "GGUF metadata"
    for key, expected in (("model", "gpt2"), ("pre", "qwen2")):
        found = metadata.get(f"tokenizer.ggml.{key}")
        if found != expected:
            raise UnsupportedModelError(
                f"{where}: tokenizer.ggml.{key} is {found!r}; qwell reads {expected!r}"
            )
    if metadata.get("tokenizer.ggml.add_bos_token"):
        raise UnsupportedModelError(f"{where}: tokenizer.ggml.add_bos_token is not supported")
    tokens = _array(metadata, "tokens", str)
    types = _array(metadata, "token_type", int)
    if len(types) != len(tokens):
        raise CheckpointError(f"{where}: {len(tokens)} tokens but {len(types)} token types")
    if strange := set(types) - {NORMAL, CONTROL, USER_DEFINED, UNUSED}:
        raise UnsupportedModelError(f"{where}: tokens of type {min(strange)} are not supported")
    normal = [token for token, kind in zip(tokens, types) if kind == NORMAL]
    added = [(t, i) for i, t in enumerate(tokens) if types[i] in (CONTROL, USER_DEFINED)]
    special = [i for t, i in added if types[i] == CONTROL and t not in _FIM]
    if types[: len(normal)].count(NORMAL) != len(normal):
        raise CheckpointError(f"{where}: an added token stands among the ordinary ones")
    eos = metadata.get("tokenizer.ggml.eos_token_id")
    eos = eos if isinstance(eos, int) else None
    return checked(normal, _array(metadata, "merges", str), added, special, eos=eos, where=where)


def from_folder(folder: Path) -> Vocabulary:
    """The vocabulary of a checkpoint folder: tokenizer.json, else vocab.json and merges.txt with
    the added tokens of tokenizer_config.json. Raises NotFoundError if there is neither."""
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path) if config_path.exists() else {}
    try:
        if (path := folder / "tokenizer.json").exists():
            model, added = _tokenizer_json(read_json(path), str(path))
        elif (path := folder / "vocab.json").exists():
            merges = _merge_lines(folder / "merges.txt")
            model = {"vocab": read_json(path), "merges": merges}
            entries = config["added_tokens_decoder"]
            added = [entry | {"id": int(i)} for i, entry in entries.items()]
        else:
            raise NotFoundError(f"{folder}: has no tokenizer.json and no vocab.json")
        return _from_parts(model, added, config, str(path))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the tokenizer files are damaged: {error!r}") from error


def _array(metadata: Mapping[str, object], key: str, kind: type) -> Sequence[Any]:
    values = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, Sequence) or not all(isinstance(v, kind) for v in values):
        raise CheckpointError(f"GGUF metadata: tokenizer.ggml.{key} is missing or of a wrong type")
    return values


def _tokenizer_json(raw: dict[str, Any], where: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Its model and added tokens, after a check that the rest is Qwen's pipeline."""
    normalizer, splitter = raw.get("normalizer"), raw.get("pre_tokenizer")
    post = raw.get("post_processor")
    steps = (splitter or {}).get("pretokenizers") or [splitter or {}]
    unlike = {
        "model": (raw.get("model") or {}).get("type", "BPE") != "BPE",
        "normalizer": (normalizer or {}).get("type") != "NFC",
        "pre_tokenizer": [step.get("type") for step in steps] != ["Split", "ByteLevel"]
        or steps[0]["pattern"].get("Regex") != PATTERN
        or steps[0].get("behavior") != "Isolated"
        or steps[1].get("add_prefix_space") is not False
        or steps[1].get("use_regex") is not False,
        "post_processor": (post or {}).get("type", "ByteLevel") != "ByteLevel",
    }
    for part, is_unlike in unlike.items():
        if is_unlike:
            raise UnsupportedModelError(f"{where}: its {part} is not that of Qwen2.5")
    return raw["model"], raw["added_tokens"]


def _from_parts(
    model: dict[str, Any], entries: list[dict[str, Any]], config: dict[str, Any], where: str
) -> Vocabulary:
    for entry in entries:
        if any(entry.get(flag) for flag in ("lstrip", "rstrip", "single_word", "normalized")):
            raise UnsupportedModelError(
                f"{where}: added token {entry['content']!r} has a flag that is not supported"
            )
    added = [(str(entry["content"]), int(entry["id"])) for entry in entries]
    special = [int(entry["id"]) for entry in entries if entry["special"]]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    if list(map(model["vocab"].get, tokens)) != list(range(len(tokens))):
        raise CheckpointError(f"{where}: the ids of the vocabulary have holes")
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    end = config.get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    return checked(tokens, merges, added, special, eos=dict(added).get(str(end)), where=where)


def _merge_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    # Only the first line can be a comment: "# #" is a merge.
    start = 1 if lines[0].startswith("#version") else 0
    return [line.removesuffix("\r") for line in lines[start:] if line.strip()]
