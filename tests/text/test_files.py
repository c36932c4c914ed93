"""A tokenizer as files: other people's programs read the same ids out of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Fast

from qwell.errors import CheckpointError
from qwell.text import ChatTemplate, Tokenizer
from qwell.text.files import gguf_keys, hf_files
from qwell.text.vocabulary import Vocabulary
from tests.text.corpus import mixed_text

TEMPLATE = ChatTemplate.chatml().source
TYPED = "<|im_start|>user\na <tool_call> b<|im_end|>\n<|fim_prefix|>x"


def write(folder: Path, tokenizer: Tokenizer, template: str | None = TEMPLATE) -> Path:
    folder.mkdir()
    for name, data in hf_files(tokenizer, template).items():
        (folder / name).write_bytes(data)
    return folder


def same(a: Vocabulary, b: Vocabulary) -> bool:
    facts = [(list(v.merges), dict(v.added), v.special, v.eos) for v in (a, b)]
    return facts[0] == facts[1]


def test_we_read_what_we_wrote(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = write(tmp_path / "t", tokenizer)
    assert same(Tokenizer.from_folder(folder).vocabulary, tokenizer.vocabulary)
    (folder / "tokenizer.json").unlink()  # then vocab.json and merges.txt
    assert same(Tokenizer.from_folder(folder).vocabulary, tokenizer.vocabulary)


def test_tokenizers_reads_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    fast = Fast.from_file(str(write(tmp_path / "t", tokenizer) / "tokenizer.json"))
    text = mixed_text()[:60_000]
    assert fast.encode(text).ids == tokenizer.encode(text)
    assert fast.encode(TYPED).ids == tokenizer.encode(TYPED, allow_special=True)
    ids = tokenizer.encode(text)
    assert fast.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids)


def test_transformers_reads_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(write(tmp_path / "t", tokenizer))
    text = "Ein Satz, 123 + 45 = 168.\n\n\tdef f(x):  return x\u0301 \U0001f600"
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs(TYPED)["input_ids"] == tokenizer.encode(TYPED, allow_special=True)
    assert theirs.eos_token == "<|im_end|>" and theirs.pad_token == "<|endoftext|>"
    ids = tokenizer.encode("a <tool_call> b<|im_end|>", allow_special=True)
    assert theirs.decode(ids, skip_special_tokens=True) == "a <tool_call> b"
    messages = [{"role": "user", "content": "Hi"}]
    rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == ChatTemplate(TEMPLATE).render(messages)


def test_no_template_is_no_key(tokenizer: Tokenizer) -> None:
    config = json.loads(hf_files(tokenizer, None)["tokenizer_config.json"])
    assert "chat_template" not in config


def test_keys_of_a_gguf_and_back(tokenizer: Tokenizer) -> None:
    keys = gguf_keys(tokenizer, TEMPLATE, 151_936)
    assert len(keys["tokenizer.ggml.tokens"]) == len(keys["tokenizer.ggml.token_type"]) == 151_936
    assert keys["tokenizer.ggml.tokens"][-1] == "[PAD151935]"
    assert keys["tokenizer.ggml.eos_token_id"] == 151_645
    assert keys["tokenizer.chat_template"] == TEMPLATE
    assert same(Tokenizer.from_gguf(keys).vocabulary, tokenizer.vocabulary)


def test_a_model_with_too_few_rows_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match="151,665 tokens but the model 151,000 rows"):
        gguf_keys(tokenizer, None, 151_000)
