"""Broken models of every kind, each in a folder of its own, for `test_bad_input`.

A function makes one and gives what the user would name.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.checkpoint.make import random_tensors, write_folder, write_gguf, write_raw_safetensors
from tests.cli.tiny import CONTROLS, config, write_model, write_tokenizer

Damage = Callable[[Path], Path]
"""Makes a broken model in an empty folder; gives what the user would name."""


def _edit(path: Path, name: str = "config.json", **over: object) -> Path:
    """A whole model with some keys of one JSON file replaced."""
    write_model(path)
    raw = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps(raw | over))
    return path


def _gguf(path: Path) -> Path:
    known = config()
    return write_gguf(
        path / "m.gguf", known, random_tensors(known), tokens=[*map(chr, range(256)), *CONTROLS]
    )


def _file(path: Path, data: bytes, name: str = "m.gguf") -> Path:
    (path / name).write_bytes(data)
    return path / name


def _cut(file: Path, share: float) -> Path:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    return file


def cut_gguf(path: Path) -> Path:
    return _cut(_gguf(path), 0.7)


def cut_gguf_header(path: Path) -> Path:
    return _cut(_gguf(path), 0.01)


def empty_gguf(path: Path) -> Path:
    return _file(path, b"")


def no_gguf(path: Path) -> Path:
    return _file(path, b"PK\3\4" + bytes(100))


def gguf_from_the_future(path: Path) -> Path:
    return _file(path, struct.pack("<4sIQQ", b"GGUF", 99, 0, 0))


def gguf_with_absurd_counts(path: Path) -> Path:
    return _file(path, struct.pack("<4sIQQ", b"GGUF", 3, 2**63, 2**63))


def missing_part(path: Path) -> Path:
    return _file(path, b"GGUF", "m-00001-of-00003.gguf")


def foreign_gguf(path: Path) -> Path:
    file = _gguf(path)
    file.write_bytes(file.read_bytes().replace(b"qwen2", b"llama"))
    return file


def cut_safetensors(path: Path) -> Path:
    _cut(write_model(path) / "model.safetensors", 0.5)
    return path


def endless_header(path: Path) -> Path:
    (write_model(path) / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    return path


def header_is_no_json(path: Path) -> Path:
    write_raw_safetensors(write_model(path) / "model.safetensors", "{not json", b"")
    return path


def missing_tensor(path: Path) -> Path:
    tensors = random_tensors(config())
    del tensors["model.norm.weight"]
    write_folder(path, config(), tensors)
    write_tokenizer(path)
    return path


def wrong_shape(path: Path) -> Path:
    return _edit(path, intermediate_size=64)


def not_a_number(path: Path) -> Path:
    tensors = random_tensors(config())
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    write_folder(path, config(), tensors)
    write_tokenizer(path)
    return path


def no_config(path: Path) -> Path:
    (write_model(path) / "config.json").unlink()
    return path


def config_is_no_json(path: Path) -> Path:
    (write_model(path) / "config.json").write_text('{"model_type": ')
    return path


def config_without_sizes(path: Path) -> Path:
    return _edit(path, hidden_size=None)


def negative_layers(path: Path) -> Path:
    return _edit(path, num_hidden_layers=-1)


def foreign_architecture(path: Path) -> Path:
    return _edit(path, model_type="llama")


def yarn(path: Path) -> Path:
    return _edit(path, rope_scaling={"type": "yarn", "factor": 4.0})


def pickled(path: Path) -> Path:
    (write_model(path) / "model.safetensors").rename(path / "pytorch_model.bin")
    return path


def missing_shard(path: Path) -> Path:
    write_folder(path, config(), random_tensors(config()), shards=3)
    write_tokenizer(path)
    (path / "model-00002-of-00003.safetensors").unlink()
    return path


def no_tokenizer(path: Path) -> Path:
    (write_model(path) / "vocab.json").unlink()
    return path


def broken_tokenizer(path: Path) -> Path:
    (write_model(path) / "vocab.json").write_text("[1, 2")
    return path


def broken_template(path: Path) -> Path:
    return _edit(path, "tokenizer_config.json", chat_template="{% for m in %}")


def no_template(path: Path) -> Path:
    write_tokenizer(write_model(path), template=None)
    return path


def template_is_no_text(path: Path) -> Path:
    return _edit(path, "tokenizer_config.json", chat_template={"a": 1})


def empty_folder(path: Path) -> Path:
    return path


def text_file(path: Path) -> Path:
    return _file(path, b"hello", "notes.txt")


def huge(path: Path) -> Path:
    """Sound, but its files hold a few kB of what its config asks for."""
    return _edit(path, hidden_size=2**20, num_attention_heads=2**14, num_key_value_heads=2**14)


def copy_of(model: Path, path: Path) -> Path:
    """A sound model that was never packed."""
    return Path(shutil.copytree(model, path / "copy"))
