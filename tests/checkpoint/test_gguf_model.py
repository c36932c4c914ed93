"""GGUF models: what the gguf package writes is what opens, whole and split; variants refused."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from qwell.checkpoint import open_checkpoint
from qwell.checkpoint.gguf_model import _defaults
from qwell.checkpoint.names import from_gguf, to_gguf
from qwell.config import ModelConfig
from qwell.errors import CheckpointError, NotFoundError, UnsupportedModelError
from qwell.hub.catalogue import entries
from tests.checkpoint import make
from tests.checkpoint.refusal import refused

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "é", "a\nb", "", "x" * 300]


def write(path: Path, over: dict[str, Any] | None = None, **options: Any) -> Path:
    config = make.tiny_config(**(over or {}))
    return make.write_gguf(path / "m.gguf", config, make.random_tensors(config), **options)


@pytest.mark.parametrize("dtype", make.FORMATS)
def test_every_format_opens_with_the_numbers_the_oracle_reads(tmp_path: Path, dtype: str) -> None:
    over = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 40}
    path = write(tmp_path, over, quant={"default": dtype, "lm_head.weight": "Q8_0"})
    opened = open_checkpoint(path)
    theirs = {t.name: t for t in gguf.GGUFReader(path).tensors}
    assert len(opened.tensors) == len(theirs) == 27
    for name, tensor in opened.tensors.items():
        other = theirs[to_gguf(name)]
        assert tensor.dtype == other.tensor_type.name
        assert tensor.shape == tuple(other.shape.tolist()[::-1])
        want = gguf.quants.dequantize(other.data, other.tensor_type)
        assert np.array_equal(tensor.float32().view(np.uint32), want.view(np.uint32))
    assert opened.tensors["model.embed_tokens.weight"].dtype == dtype


def test_config_and_metadata(tmp_path: Path) -> None:
    merges = ["a b", "Ġ Ġ"]
    path = write(tmp_path, tokens=TOKENS, merges=merges, chat_template="{{ x }}")
    opened = open_checkpoint(path)
    assert opened.format == "gguf" and opened.folder is None and opened.files == (path,)
    assert opened.config == ModelConfig.from_dict(make.tiny_config())
    metadata = opened.metadata
    assert metadata["tokenizer.ggml.tokens"] == TOKENS
    assert metadata["tokenizer.ggml.merges"] == merges
    assert metadata["tokenizer.ggml.token_type"] == [3, 3, 3, 1, 1, 1, 1]
    assert metadata["tokenizer.chat_template"] == "{{ x }}"
    assert metadata["tokenizer.ggml.model"] == "gpt2"
    assert "absent" not in metadata and len(dict(metadata)) == len(metadata)


def test_all_value_types(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "t.uint8": 2**8 - 1,
        "t.int8": -(2**7),
        "t.uint16": 2**16 - 1,
        "t.int16": -(2**15),
        "t.uint32": 2**32 - 1,
        "t.int32": -(2**31),
        "t.uint64": 2**64 - 1,
        "t.int64": -(2**63),
        "t.float32": 0.5,
        "t.float64": 1e300,
        "t.bool": True,
        "t.string": "é",
        "t.array": [1, -2],
    }
    path = tmp_path / "m.gguf"
    config = make.tiny_config()
    writer = gguf.GGUFWriter(path, "qwen2")
    make._write_config(writer, config)
    for key, value in values.items():
        getattr(writer, "add_" + key[2:])(key, value)
    writer.add_array("t.bools", [True, False])
    writer.add_array("t.floats", [0.5, -1.5])
    for name, tensor in make.random_tensors(config).items():
        writer.add_tensor(to_gguf(name), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = open_checkpoint(path).metadata
    for key, value in (values | {"t.bools": [True, False], "t.floats": [0.5, -1.5]}).items():
        assert metadata[key] == value and type(metadata[key]) is type(value), key


@pytest.mark.parametrize("alignment", [1, 8, 32, 256])
def test_alignment(tmp_path: Path, alignment: int) -> None:
    path, config = tmp_path / "m.gguf", make.tiny_config()
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_custom_alignment(alignment)
    make._write_config(writer, config)
    tensors = make.random_tensors(config)
    for name, values in tensors.items():
        writer.add_tensor(to_gguf(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened = open_checkpoint(path).tensors
    assert all(np.array_equal(opened[name].float32(), tensors[name]) for name in tensors)


def test_version_2_reads_the_same(tmp_path: Path) -> None:
    path = write(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[4] = 2
    path.write_bytes(raw)
    assert len(open_checkpoint(path).tensors) == 27


def test_tied_is_the_absence_of_output_weight(tmp_path: Path) -> None:
    opened = open_checkpoint(write(tmp_path, {"tie_word_embeddings": True}))
    assert opened.config.tie_word_embeddings and "lm_head.weight" not in opened.tensors
    opened = open_checkpoint(write(tmp_path))
    assert not opened.config.tie_word_embeddings and "lm_head.weight" in opened.tensors


def test_head_dim_is_key_length_if_it_is_there(tmp_path: Path) -> None:
    assert open_checkpoint(write(tmp_path, {"head_dim": 32})).config.head_dim == 32


def test_name_map_is_the_one_of_the_gguf_package() -> None:
    theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 12)
    for name in make.shapes(make.tiny_config(num_hidden_layers=12)):
        mapped = theirs.get_name(name, try_suffixes=(".weight", ".bias"))
        assert to_gguf(name) == mapped and from_gguf(to_gguf(name)) == name
    for other in ("blk.01.attn_q.weight", "blk.1.attn_x.weight", "blk.99999999999.attn_q.bias"):
        assert from_gguf(other) == other
    with pytest.raises(KeyError):
        to_gguf("model.layers.0.mlp.gate_proj.bias")


# --- sampling defaults ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, hidden, heads, penalty",
    [
        ("Qwen2.5 0.5B Instruct", 896, 14, 1.1),
        ("qwen2.5-1.5b-instruct", 1536, 12, 1.1),
        ("Qwen2.5 Coder 0.5B Instruct AWQ", 896, 14, 1.1),
        ("qwen2.5-7b-instruct", 64, 4, 1.05),
        ("Qwen2.5 Coder 7B Instruct", 64, 4, 1.1),
    ],
)
def test_instruct_models_sample_as_their_makers_say(
    tmp_path: Path, name: str, hidden: int, heads: int, penalty: float
) -> None:
    over = {"hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": 1}
    generation = open_checkpoint(write(tmp_path, over, name=name)).generation
    assert generation.do_sample and generation.repetition_penalty == penalty
    assert (generation.temperature, generation.top_p, generation.top_k) == (0.7, 0.8, 20)


def test_a_file_given_by_its_path_samples_as_by_its_name() -> None:
    """The catalogue knows the values of a name, the table those of a file that has none."""
    sizes = {"0.5b": 896, "1.5b": 1536, "3b": 2048, "7b": 3584, "14b": 5120, "32b": 5120}
    for entry in entries():
        name = entry.repo.lower()
        if entry.generation and "instruct" in name:
            hidden = next((sizes[size] for size in sizes if f"-{size}-" in name), 8192)
            ends = entry.generation.eos_token_ids
            assert replace(_defaults(name, hidden), eos_token_ids=ends) == entry.generation, name


@pytest.mark.parametrize("name", ["Qwen2.5 7B", "qwen2.5-coder-7b", "Qwen2.5 Math 7B Instruct"])
def test_base_and_math_models_are_greedy(tmp_path: Path, name: str) -> None:
    assert open_checkpoint(write(tmp_path, name=name)).generation.do_sample is False


def test_a_nameless_model_that_ends_with_im_end_is_an_instruct_model(tmp_path: Path) -> None:
    path = write(tmp_path, {"eos_token_id": 2}, name="mine", tokens=TOKENS)
    assert open_checkpoint(path).generation.do_sample is True
    path = write(tmp_path, {"eos_token_id": 0}, name="mine", tokens=TOKENS)
    assert open_checkpoint(path).generation.do_sample is False


@pytest.mark.parametrize(
    "options, ids",
    [
        ({"tokens": TOKENS, "chat_template": "x"}, (2, 0)),
        ({"tokens": TOKENS, "name": "base"}, (0,)),
        ({"tokens": TOKENS[2:], "chat_template": "x"}, (0,)),
        ({"tokens": ["x<|im_end|>", *TOKENS], "chat_template": "x"}, (3, 1)),
        ({}, (151_645, 151_643)),
    ],
)
def test_end_ids(tmp_path: Path, options: dict[str, Any], ids: tuple[int, ...]) -> None:
    eos = {"eos_token_id": ids[0]}
    opened = open_checkpoint(write(tmp_path, eos, **options))
    assert opened.generation.eos_token_ids == ids
    if "tokens" in options:  # the same after the list was decoded
        assert opened.metadata["tokenizer.ggml.tokens"] == options["tokens"]
        assert opened.metadata.index("tokenizer.ggml.tokens", "<|im_end|>") == options[
            "tokens"
        ].index("<|im_end|>")


# --- split files ----------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    write(tmp_path, split=10, tokens=TOKENS)
    return sorted(tmp_path.glob("m-*.gguf"))


def test_the_first_part_finds_its_siblings(split: list[Path], tmp_path: Path) -> None:
    opened = open_checkpoint(split[0])
    assert len(split) == 3 and opened.files == tuple(split)
    whole = open_checkpoint(write(tmp_path, tokens=TOKENS))
    assert list(opened.tensors) == list(whole.tensors)
    for name, tensor in opened.tensors.items():
        assert tensor.data.tobytes() == whole.tensors[name].data.tobytes()
    assert open_checkpoint(split).files == tuple(split)


def test_split_faults(split: list[Path], tmp_path: Path) -> None:
    refused(split[1], "part 2", "first part")
    with pytest.raises(CheckpointError, match="3 parts but 2 are given"):
        open_checkpoint(split[:2])
    with pytest.raises(CheckpointError, match="is not part 2 of 3"):
        open_checkpoint([split[0], split[2], split[1]])
    renamed = split[0].rename(tmp_path / "x.gguf")
    refused(renamed, "name must end in")
    renamed.rename(split[0])
    split[2].unlink()
    refused(split[0], file=split[2].name, kind=NotFoundError)


def test_parts_of_two_models(split: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    config = make.tiny_config()
    tensors = make.random_tensors(config)
    del tensors["lm_head.weight"], tensors["model.norm.weight"]
    make.write_gguf(other / "m.gguf", config, tensors, split=9)
    split[2].write_bytes((other / split[2].name).read_bytes())
    refused(split[0], "do not belong together", file="m-0000")


def test_no_file_at_all() -> None:
    with pytest.raises(CheckpointError, match="no model file"):
        open_checkpoint([])


# --- variants -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, value",
    [
        ("qwen2.rope.scaling.type", "yarn"),
        ("qwen2.rope.scaling.factor", 4.0),
        ("qwen2.rope.scaling.attn_factor", 1.0),
        ("qwen2.rope.scale_linear", 2.0),
        ("qwen2.rope.dimension_count", 8),
        ("qwen2.attention.sliding_window", 4096),
        ("qwen2.attention.value_length", 8),
        ("qwen2.attention.causal", False),
    ],
)
def test_what_would_change_the_numbers_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    refused(write(tmp_path, extra={key: value}), key, kind=UnsupportedModelError)


def test_the_same_keys_with_harmless_values(tmp_path: Path) -> None:
    extra = {
        "qwen2.rope.scaling.type": "none",
        "qwen2.rope.scaling.factor": 4.0,
        "qwen2.rope.dimension_count": 16,
        "qwen2.attention.sliding_window": 0,
        "qwen2.attention.causal": True,
        "general.quantized_by": "me",
    }
    assert len(open_checkpoint(write(tmp_path, extra=extra)).tensors) == 27


@pytest.mark.parametrize("arch", ["llama", "qwen2moe", "qwen3"])
def test_foreign_architectures(tmp_path: Path, arch: str) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, arch)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(path, repr(arch), kind=UnsupportedModelError)


def test_tensors_that_do_not_fit_the_config(tmp_path: Path) -> None:
    path, config = tmp_path / "m.gguf", make.tiny_config()
    tensors = make.random_tensors(config)
    bias = tensors.pop("model.layers.0.self_attn.q_proj.bias")
    refused(make.write_gguf(path, config, tensors), "layers.0.self_attn.q_proj.bias", "missing")
    extra = tensors | {"model.layers.0.self_attn.q_proj.bias": bias, "ghost": bias}
    refused(make.write_gguf(path, config, extra), "ghost", "not part of")
    wrong = tensors | {"model.layers.0.self_attn.q_proj.bias": bias[:-1]}
    refused(make.write_gguf(path, config, wrong), "(63,)", "(64,)", "q_proj.bias")
    del extra["model.embed_tokens.weight"]
    refused(make.write_gguf(path, config, extra), "token_embd.weight", "missing")


def test_a_billion_layers_cost_nothing(tmp_path: Path) -> None:
    path = write(tmp_path)
    key = b"qwen2.block_count" + struct.pack("<I", 4)
    raw = path.read_bytes().replace(key + struct.pack("<I", 2), key + struct.pack("<I", 2**31 - 1))
    path.write_bytes(raw)
    refused(path, "model.layers.2.input_layernorm.weight is missing")


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    path = write(tmp_path, tokens=[str(i) for i in range(97)])
    refused(path, "tokenizer.ggml.tokens has 97 tokens for 96 rows")


@pytest.mark.parametrize("eos", [96, 2**32 - 1])
def test_an_end_id_outside_the_vocabulary(tmp_path: Path, eos: int) -> None:
    refused(write(tmp_path, {"eos_token_id": eos}, tokens=TOKENS), "eos_token_id")
