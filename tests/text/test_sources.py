"""Where a vocabulary comes from: equal from every source, refused when damaged or foreign."""

from __future__ import annotations

import copy
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwell.checkpoint import open_checkpoint
from qwell.errors import CheckpointError, NotFoundError, StorageError
from qwell.text import Tokenizer
from qwell.text.vocabulary import MAX_JSON, Vocabulary
from tests.text import ranks
from tests.text.corpus import mixed_text


def small_gguf() -> dict[str, Any]:
    """Metadata with the bytes, three merges, an added token of each kind and padding."""
    words = ["th", "the", "Ġthe"]
    added = {"<|endoftext|>": 3, "<tool_call>": 4, "<|fim_prefix|>": 3, "[PAD262]": 5}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [*ranks.tokens()[:256], *words, *added],
        "tokenizer.ggml.token_type": [1] * 259 + list(added.values()),
        "tokenizer.ggml.merges": ["t h", "th e", "Ġ the"],
        "tokenizer.ggml.eos_token_id": 259,
        "tokenizer.ggml.add_bos_token": False,
    }


def small_json() -> dict[str, Any]:
    """The same as a tokenizer.json."""
    raw = small_gguf()
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    names = {"<|endoftext|>": True, "<tool_call>": False, "<|fim_prefix|>": False}
    split = {"type": "Split", "pattern": {"Regex": ranks.PATTERN}, "behavior": "Isolated"}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    return {
        "added_tokens": [
            {"id": 259 + i, "content": text, "special": special, **flags}
            for i, (text, special) in enumerate(names.items())
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "vocab": {t: i for i, t in enumerate(raw["tokenizer.ggml.tokens"][:259])},
            "merges": raw["tokenizer.ggml.merges"],
        },
    }


def write(folder: Path, name: str, value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / name).write_text(text, encoding="utf-8")


def facts(tokenizer: Tokenizer) -> tuple[object, ...]:
    """All that tells two small tokenizers apart."""
    ids = tokenizer.encode(" the <tool_call><|fim_prefix|> thth", allow_special=True)
    size, specials = tokenizer.vocab_size, tokenizer.special_ids
    return ids, size, specials, tokenizer.eos_ids, dict(tokenizer.special_tokens)


EXPECTED = (
    [258, 220, 260, 261, 220, 256, 256],
    262,
    frozenset({259}),
    (259,),
    {"<|endoftext|>": 259, "<tool_call>": 260, "<|fim_prefix|>": 261},
)


def test_gguf() -> None:
    assert facts(Tokenizer.from_gguf(small_gguf())) == EXPECTED


@pytest.mark.parametrize("pairs", [False, True])
def test_tokenizer_json(tmp_path: Path, pairs: bool) -> None:
    raw = small_json()
    if pairs:
        raw["model"]["merges"] = [merge.split(" ") for merge in raw["model"]["merges"]]
    write(tmp_path, "tokenizer.json", raw)
    write(tmp_path, "tokenizer_config.json", {"eos_token": {"content": "<|endoftext|>"}})
    assert facts(Tokenizer.from_folder(tmp_path)) == EXPECTED


@pytest.mark.parametrize("head", ["", "#version: 0.2\n"])
def test_vocab_and_merges(tmp_path: Path, head: str) -> None:
    raw = small_json()
    write(tmp_path, "vocab.json", raw["model"]["vocab"])
    write(tmp_path, "merges.txt", head + "\n".join(raw["model"]["merges"]) + "\n")
    added = {str(token.pop("id")): token for token in raw["added_tokens"]}
    write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": added})
    assert facts(Tokenizer.from_folder(tmp_path)) == EXPECTED


def _set(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw.__setitem__(f"tokenizer.ggml.{key}", value)


def _edit(key: str, at: int, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw[f"tokenizer.ggml.{key}"].__setitem__(at, value)


BAD_GGUF = {
    "llama": (_set("model", "llama"), "tokenizer.ggml.model is 'llama'"),
    "pre": (_set("pre", "llama-bpe"), "tokenizer.ggml.pre is 'llama-bpe'"),
    "bos": (_set("add_bos_token", True), "add_bos_token"),
    "no tokens": (_set("tokens", None), "tokens is missing"),
    "tokens not text": (_edit("tokens", 3, 7), "tokens is missing or of a wrong type"),
    "types short": (_set("token_type", [1]), "263 tokens but 1 token types"),
    "type of bytes": (_edit("token_type", 5, 6), "type 6"),
    "added inside": (_edit("token_type", 5, 3), "stands among the ordinary"),
    "other token": (_edit("tokens", 257, "xyz"), "not the 256 bytes followed by"),
    "missing merge": (_set("merges", ["t h", "th e"]), "not the 256 bytes followed by"),
    "merge of nothing": (_edit("merges", 1, "the"), "does not join two tokens"),
    "merge of strangers": (_edit("merges", 1, "to e"), "does not join two tokens"),
    "merge of three": (_edit("merges", 1, "t h e"), "does not join two tokens"),
    "same merge": (_edit("merges", 2, "t h"), "not the 256 bytes followed by"),
    "end": (_set("eos_token_id", 999), "end token 999"),
    "short added": (_edit("tokens", 260, "<"), "shorter than two"),
    "same added": (_edit("tokens", 260, "<|endoftext|>"), "appears twice"),
}


@pytest.mark.parametrize("name", BAD_GGUF)
def test_bad_gguf_is_refused(name: str) -> None:
    spoil, message = BAD_GGUF[name]
    raw = copy.deepcopy(small_gguf())
    spoil(raw)
    with pytest.raises(CheckpointError, match=message) as fault:
        Tokenizer.from_gguf(raw)
    assert "\n" not in str(fault.value)


def _change(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(raw: Any) -> None:
        for key in path[:-1]:
            raw = raw[key]
        raw[path[-1]] = to

    return change


BAD_JSON = {
    "unigram": (_change("model", "type", to="Unigram"), "its model is not"),
    "nfkc": (_change("normalizer", "type", to="NFKC"), "its normalizer is not"),
    "no normalizer": (_change("normalizer", to=None), "its normalizer is not"),
    "no splitter": (_change("pre_tokenizer", to=None), "its pre_tokenizer is not"),
    "other pattern": (
        _change("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex", to=r"\w+"),
        "its pre_tokenizer is not",
    ),
    "prefix space": (
        _change("pre_tokenizer", "pretokenizers", 1, "add_prefix_space", to=True),
        "its pre_tokenizer is not",
    ),
    "adds bos": (
        _change("post_processor", "type", to="TemplateProcessing"),
        "its post_processor is not",
    ),
    "stripping": (_change("added_tokens", 0, "lstrip", to=True), "has a flag"),
    "id twice": (_change("added_tokens", 1, "id", to=259), "share an id"),
    "id of a merge": (_change("added_tokens", 1, "id", to=256), "has the id of a merge"),
    "half a character": (_change("added_tokens", 0, "content", to="a\ud800"), "valid Unicode"),
    "hole": (_change("model", "vocab", "the", to=700), "holes"),
    "no vocab": (_change("model", to={"type": "BPE"}), "damaged"),
    "no model": (_change("model", to=None), "damaged"),
    "strange added": (_change("added_tokens", to=[1]), "damaged"),
    "unknown shape": (_change("pre_tokenizer", to=[]), "its pre_tokenizer is not"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_tokenizer_json_is_refused(tmp_path: Path, name: str) -> None:
    spoil, message = BAD_JSON[name]
    raw = small_json()
    spoil(raw)
    write(tmp_path, "tokenizer.json", raw)
    with pytest.raises(CheckpointError, match=message) as fault:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00\xff", "[" * 100_000, '{"model": 1}'])
def test_broken_json_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, "tokenizer.json", text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json|tokenizer files"):
        Tokenizer.from_folder(tmp_path)


def test_a_file_too_large_to_be_a_tokenizer_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(MAX_JSON + 1)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: has more than 33 MB"):
        Tokenizer.from_folder(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"has no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


def test_vocab_without_its_companions(tmp_path: Path) -> None:
    write(tmp_path, "vocab.json", small_json()["model"]["vocab"])
    with pytest.raises(CheckpointError, match=r"merges\.txt: cannot be read"):
        Tokenizer.from_folder(tmp_path)
    write(tmp_path, "merges.txt", "t h\n")
    with pytest.raises(CheckpointError, match="added_tokens_decoder"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 40, 100, -1])
def test_damaged_saved_form_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "t.json"
    Tokenizer.from_gguf(small_gguf()).save(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"t\.json"):
        Tokenizer.from_file(path)


@pytest.mark.parametrize("key", ["format", "merges", "added", "special", "eos"])
def test_saved_form_without_a_key_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "t.json"
    Tokenizer.from_gguf(small_gguf()).save(path)
    raw = json.loads(path.read_text(encoding="utf-8"))
    del raw[key]
    write(tmp_path, "t.json", raw)
    with pytest.raises(CheckpointError, match="delete it to have it rebuilt"):
        Tokenizer.from_file(path)


def test_save_into_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        Tokenizer.from_gguf(small_gguf()).save(tmp_path / "gone" / "t.json")


@pytest.mark.weights
@pytest.mark.parametrize("size", ["0.5b", "1.5b"])
def test_official_files_hold_the_official_tokenizer(
    official_gguf: Callable[[str], Path], vocabulary: Vocabulary, size: str
) -> None:
    tokenizer = Tokenizer.from_gguf(open_checkpoint(official_gguf(size)).metadata)
    expected = Tokenizer(vocabulary)
    assert [tokenizer.token_bytes(i) for i in range(152_000)] == [
        expected.token_bytes(i) for i in range(152_000)
    ]
    assert dict(tokenizer.special_tokens) == dict(expected.special_tokens)
    assert tokenizer.special_ids == expected.special_ids
    assert tokenizer.eos_ids == expected.eos_ids
    assert tokenizer.vocab_size == expected.vocab_size
    text = mixed_text()[-300_000:]
    assert tokenizer.encode(text) == expected.encode(text)
