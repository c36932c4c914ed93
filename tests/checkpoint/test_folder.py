"""Hugging Face folders: what they hold, against the safetensors package, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from qwell.checkpoint import open_checkpoint
from qwell.errors import NotFoundError, UnsupportedModelError
from tests.checkpoint import make
from tests.checkpoint.refusal import refused

INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(tmp_path: Path, dtype: str, shards: int, tied: bool) -> None:
    config = make.tiny_config(tie_word_embeddings=tied)
    tensors = make.random_tensors(config)
    folder = make.write_folder(tmp_path, config, tensors, dtype, shards)
    opened = open_checkpoint(folder)
    assert opened.format == "safetensors" and opened.folder == folder and not opened.metadata
    assert opened.config.tie_word_embeddings is tied and opened.config.head_dim == 16
    assert list(opened.tensors) == list(make.shapes(config))
    assert all(path.is_file() for path in opened.files) and len(opened.files) >= shards + 1
    for name, tensor in opened.tensors.items():
        assert (tensor.name, tensor.dtype) == (name, dtype.upper())
        assert tensor.data.tobytes() == make.encode(tensors[name], dtype)
        near = {"f32": 0, "f16": 2**-11, "bf16": 2**-8}[dtype]
        np.testing.assert_allclose(tensor.float32(), tensors[name], near, 1e-6 if near else 0)


def test_files_of_the_safetensors_package_open_and_ours_open_there(tmp_path: Path) -> None:
    config = make.tiny_config()
    tensors = make.random_tensors(config)
    folder = make.write_folder(tmp_path, config, tensors, "f16")
    file = folder / "model.safetensors"
    theirs = safetensors.numpy.load_file(file)
    ours = open_checkpoint(folder).tensors
    assert all(theirs[name].tobytes() == ours[name].data.tobytes() for name in tensors)
    safetensors.numpy.save_file(tensors, file, metadata={"format": "pt"})
    ours = open_checkpoint(folder).tensors
    assert all(np.array_equal(ours[name].float32(), tensors[name]) for name in tensors)


def test_a_copy_of_the_head_and_old_buffers_are_left_out(tmp_path: Path) -> None:
    config = make.tiny_config(tie_word_embeddings=True)
    tensors = make.random_tensors(config)
    names = list(tensors)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    opened = open_checkpoint(make.write_folder(tmp_path, config, tensors))
    assert list(opened.tensors) == names


@pytest.mark.parametrize(
    "in_config, in_generation, ids",
    [
        (7, [5, 6], (5, 6, 7)),
        (7, 7, (7,)),
        ([7, 8], None, (7, 8)),
        (None, 5, (5,)),
        (None, None, (151_645, 151_643)),
    ],
)
def test_end_ids_are_the_union(
    tmp_path: Path, in_config: Any, in_generation: Any, ids: tuple[int, ...]
) -> None:
    config = make.tiny_config(eos_token_id=in_config)
    defaults = {"temperature": 0.7, "do_sample": True, "eos_token_id": in_generation, "top_k": None}
    folder = make.write_folder(tmp_path, config, make.random_tensors(config), generation=defaults)
    generation = open_checkpoint(folder).generation
    assert generation.eos_token_ids == ids
    assert (generation.temperature, generation.do_sample) == (0.7, True)


def test_without_generation_config_the_model_is_greedy(tmp_path: Path) -> None:
    config = make.tiny_config()
    folder = make.write_folder(tmp_path, config, make.random_tensors(config))
    assert open_checkpoint(folder).generation.do_sample is False
    assert open_checkpoint(folder).generation.eos_token_ids == (95,)


# --- refusals -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = make.tiny_config()
    return make.write_folder(tmp_path / "model", config, make.random_tensors(config))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    config = make.tiny_config()
    return make.write_folder(tmp_path / "model", config, make.random_tensors(config), shards=3)


@pytest.mark.parametrize(
    "over, word",
    [
        ({"model_type": "llama"}, "llama"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"factor": 4.0}}, "rope_scaling 'of no type'"),
        ({"rope_scaling": "yarn"}, "rope_scaling 'that is no object'"),
        ({"rope_parameters": [1e6]}, "rope_parameters 'that is no object'"),
        (
            {"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_type": "yarn"}},
            "rope_parameters 'yarn'",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e5}}},
            "rope_parameters 'of no type'",
        ),
        ({"is_causal": False}, "is_causal"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"architectures": ["Qwen2ForRewardModel"]}, "Qwen2ForRewardModel"),
        ({"hidden_act": "gelu"}, "gelu"),
    ],
)
def test_what_is_not_built_is_refused_by_name(
    folder: Path, over: dict[str, Any], word: str
) -> None:
    (folder / "config.json").write_text(json.dumps(make.tiny_config(**over)))
    refused(folder, word, "config.json", kind=UnsupportedModelError)


@pytest.mark.parametrize(
    "over",
    [
        {"rope_parameters": [1]},
        {"rope_scaling": "yarn"},
        {"num_hidden_layers": "two"},
        {"num_hidden_layers": None},
        {"num_hidden_layers": 0},
        {"hidden_size": True},
        {"hidden_size": 65},
        {"rms_norm_eps": [1]},
        {"rope_theta": 10**400},
        {"rope_theta": None},
        {"tie_word_embeddings": "false"},
        {"num_attention_heads": -4},
        {"eos_token_id": "<|im_end|>"},
        {"eos_token_id": [1, 2.5]},
        {"eos_token_id": -1},
    ],
)
def test_absurd_configs(folder: Path, over: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(make.tiny_config(**over)))
    refused(folder, "config")


@pytest.mark.parametrize(
    "text, word",
    [
        ("", "empty"),
        ("[]", "not a JSON object"),
        ("{", "not sound JSON"),
        ('{"a": 1, "b": 2, "a": 1}', "'a' appears twice"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100_000, "not sound JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not sound JSON"),
        ('{"model_type": "' + "x" * (3 << 20) + '"}', "bytes of JSON"),
        ("\ud800", "not sound JSON"),
    ],
)
def test_broken_json(folder: Path, text: str, word: str) -> None:
    (folder / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    refused(folder, word, "config.json")


@pytest.mark.parametrize(
    "key, value",
    [
        ("temperature", "hot"),
        ("temperature", -1),
        ("temperature", 10**400),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("repetition_penalty", 0),
        ("eos_token_id", {"a": 1}),
    ],
)
def test_absurd_sampling_defaults(folder: Path, key: str, value: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps({key: value}))
    refused(folder, "generation_config.json")


def test_an_end_id_is_blamed_on_its_own_file(folder: Path) -> None:
    (folder / "generation_config.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps(make.tiny_config(eos_token_id="x")))
    assert "generation_config" not in refused(folder, "config.json: eos_token_id is 'x'")


def test_a_quarter_million_end_ids_take_no_time(folder: Path) -> None:
    ids = {"eos_token_id": list(range(250_000)), "temperature": -1}
    (folder / "generation_config.json").write_text(json.dumps(ids))
    refused(folder, "temperature")


def test_a_billion_layers_cost_nothing(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(make.tiny_config(num_hidden_layers=2**31 - 1)))
    refused(folder, "model.layers.2.input_layernorm.weight is missing")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, name, kind=NotFoundError)


def test_an_empty_folder_and_a_missing_one(tmp_path: Path) -> None:
    refused(tmp_path, "model.safetensors", kind=NotFoundError)
    refused(tmp_path / "absent", "no such file or folder", kind=NotFoundError)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_never_opened(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04.")
    refused(folder, name, "pickle", "safetensors", kind=UnsupportedModelError)
    refused(folder / name, "pickle", kind=UnsupportedModelError)


def test_other_things_than_a_folder(folder: Path) -> None:
    refused(folder / "model.safetensors", "give its folder")
    refused(folder / "config.json", "not a GGUF file")
    (folder / "model.safetensors").rename(folder / "m.gguf")
    refused(folder, "m.gguf", "give the .gguf file itself", kind=NotFoundError)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = make.tiny_config()
    tensors = make.random_tensors(config)
    change(tensors)
    make.write_safetensors(folder / "model.safetensors", tensors)


def test_missing_extra_and_misshapen_tensors(folder: Path) -> None:
    name = "model.layers.1.self_attn.k_proj.bias"
    rewrite(folder, lambda t: t.pop(name))
    refused(folder, name, "missing")
    rewrite(folder, lambda t: t.update({name: np.zeros(31, np.float32)}))
    refused(folder, "model.safetensors", name, "(31,)", "(32,)")
    rewrite(folder, lambda t: t.update({"model.layers.2.x": np.zeros(3, np.float32)}))
    refused(folder, "model.safetensors", "model.layers.2.x", "not part of")
    rewrite(folder, lambda t: t.update({"a\n\ud83d\ude00" + "b" * 900: np.zeros(3, np.float32)}))
    refused(folder, "'a\\n")


def test_untied_without_a_head(folder: Path) -> None:
    rewrite(folder, lambda t: t.pop("lm_head.weight"))
    refused(folder, "lm_head.weight", "missing")


# --- shards ---------------------------------------------------------------------------------


def change_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_a_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    refused(sharded, "model-00002-of-00003.safetensors", "missing")


def test_an_index_that_names_the_wrong_shard(sharded: Path) -> None:
    change_index(sharded, lambda m: m.update({"lm_head.weight": min(m.values())}))
    refused(sharded, "model-00003-of-00003.safetensors", "lm_head.weight", "do not belong together")


def test_an_index_that_knows_too_much_or_too_little(sharded: Path) -> None:
    change_index(sharded, lambda m: m.update({"ghost": min(m.values())}))
    refused(sharded, "ghost", "model-00001-of-00003.safetensors", "missing")
    change_index(sharded, lambda m: (m.pop("ghost"), m.pop("model.norm.weight")))
    refused(sharded, "model.norm.weight", "is here")


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "x.bin", 3, None, ""]
)
def test_an_index_cannot_point_elsewhere(sharded: Path, shard: Any) -> None:
    change_index(sharded, lambda m: m.update({"lm_head.weight": shard}))
    refused(sharded, INDEX, "lm_head.weight", "not the name of a safetensors file")


@pytest.mark.parametrize("text", ["{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_an_index_without_a_map(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    refused(sharded, INDEX, "weight_map")


def test_one_file_wins_over_an_index(sharded: Path) -> None:
    rewrite(sharded, lambda t: None)
    assert [p.name for p in open_checkpoint(sharded).files] == ["model.safetensors", "config.json"]
