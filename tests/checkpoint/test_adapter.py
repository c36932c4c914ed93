"""Adapters in PEFT's layout: what is read, and every refusal by name."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell.checkpoint import Adapter, merged, open_adapter, open_checkpoint, write_adapter
from qwell.config import ModelConfig
from qwell.errors import CheckpointError, NotFoundError, QwellError, UnsupportedModelError
from tests.checkpoint.adapters import ALL, factors, write_peft
from tests.checkpoint.make import random_tensors, tiny_config, write_folder
from tests.model.tiny import FloatTensor

RAW = tiny_config()
CONFIG = ModelConfig.from_dict(RAW)
Q0 = "model.layers.0.self_attn.q_proj"


def opened(folder: Path, **how: Any) -> Adapter:
    return open_adapter(write_peft(folder, RAW, **how), CONFIG)


def test_factors_and_scale(tmp_path: Path) -> None:
    adapter = opened(tmp_path / "a", rank=3, lora_alpha=12)
    assert len(adapter.loras) == 2 * 7
    weights = factors(RAW, 3)
    for module, lora in adapter.loras.items():
        a, b = (weights[f"base_model.model.{module}.lora_{x}.weight"] for x in "AB")
        np.testing.assert_array_equal(lora.a.float32(), a)
        np.testing.assert_array_equal(lora.b.float32(), b * np.float32(4))
        np.testing.assert_array_equal(lora.b.float32(1, 3), b[1:3] * np.float32(4))
    assert adapter.loras[Q0].a.name == f"{Q0}.lora_A.weight"


def test_rslora_divides_by_the_root(tmp_path: Path) -> None:
    adapter = opened(tmp_path / "a", rank=3, lora_alpha=12, use_rslora=True)
    assert adapter.loras[Q0].b.scale == 12 / sqrt(3)


def test_ranks_and_alphas_of_some_modules(tmp_path: Path) -> None:
    ranks = dict.fromkeys(ALL, 2) | {"q_proj": 5}
    folder = write_peft(
        tmp_path / "a",
        RAW,
        2,
        tensors=factors(RAW, ranks),
        rank_pattern={"q_proj": 5},
        alpha_pattern={"^model.layers.0.self_attn.q_proj": 10, "down_proj": 3},
        lora_alpha=4,
    )
    loras = open_adapter(folder, CONFIG).loras
    assert [loras[m].b.scale for m in (Q0, Q0.replace("0", "1"), Q0.replace("q", "k", 1))] == [
        2.0,
        0.8,
        2.0,
    ]
    assert loras["model.layers.1.mlp.down_proj"].b.scale == 1.5


def test_some_targets_and_layers(tmp_path: Path) -> None:
    few = {k: v for k, v in factors(RAW, 2, ("q_proj", "v_proj")).items() if "layers.1." in k}
    how = {"targets": ("q_proj", "v_proj"), "rank": 2, "tensors": few}
    assert len(opened(tmp_path / "a", layers_to_transform=[1], **how).loras) == 2
    with pytest.raises(CheckpointError, match=r"target_modules names model\.layers\.0"):
        opened(tmp_path / "b", **how)


def test_the_id_names_the_content(tmp_path: Path) -> None:
    a, same, b = (opened(tmp_path / n, seed=s).id for n, s in (("a", 0), ("s", 0), ("b", 1)))
    assert a == same != b and len(a) == 16
    assert opened(tmp_path / "c", seed=0, lora_alpha=9).id != a


def test_merged_adds_the_product(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", RAW, random_tensors(RAW), "f32")
    base = open_checkpoint(tmp_path / "m").tensors
    adapter = opened(tmp_path / "a", rank=4, lora_alpha=8, targets=("q_proj", "down_proj"))
    whole = merged(base, adapter)
    assert list(whole) == list(base)
    changed = {name for name in base if whole[name] is not base[name]}
    assert len(changed) == 4
    weights = factors(RAW, 4, ("q_proj", "down_proj"))
    for name in changed:
        a, b = (weights[f"base_model.model.{name[:-7]}.lora_{x}.weight"] for x in "AB")
        want = base[name].float32().astype(np.float64) + 2.0 * b.astype(np.float64) @ a
        np.testing.assert_allclose(whole[name].float32(), want, rtol=0, atol=1e-5)
        np.testing.assert_allclose(whole[name].float32(3, 9), want[3:9], rtol=0, atol=1e-5)


def test_what_we_write_we_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = {
        Q0: tuple(FloatTensor("x", rng.standard_normal(s).astype("f4")) for s in ((6, 64), (64, 6)))
    }
    write_adapter(tmp_path / "a", pairs, rank=6, alpha=9, rslora=True, base_model="me/it")
    [(module, lora)] = open_adapter(tmp_path / "a", CONFIG).loras.items()
    assert (module, lora.b.scale) == (Q0, 9 / sqrt(6))
    np.testing.assert_array_equal(lora.a.float32(), pairs[Q0][0].array)
    np.testing.assert_array_equal(lora.b.tensor.float32(), pairs[Q0][1].array)


# --- refusals ------------------------------------------------------------------------------------


def refused(folder: Path, *words: str, kind: type[QwellError] = UnsupportedModelError) -> None:
    with pytest.raises(kind) as caught:
        open_adapter(folder, CONFIG)
    message = str(caught.value)
    assert type(caught.value) is kind and "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("modules_to_save", ["lm_head"]),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("use_qalora", True),
        ("layer_replication", [[0, 1]]),
        ("trainable_token_indices", [3]),
        ("alora_invocation_tokens", [1]),
        ("target_parameters", ["x"]),
        ("a_key_of_the_future", 1),
        ("rank_pattern", {".*q": 4}),
    ],
)
def test_what_is_not_computed_is_named(key: str, value: Any, tmp_path: Path) -> None:
    refused(write_peft(tmp_path / "a", RAW, **{key: value}), key, "adapter_config.json")


def whole_matrices(*names: str, seed: int = 0) -> dict[str, Any]:
    """An adapter's factors, and a matrix of the embedding's size under each of `names`."""
    rng = np.random.default_rng(seed)
    size = RAW["vocab_size"], RAW["hidden_size"]
    found = {f"base_model.model.{n}.weight": rng.standard_normal(size, np.float32) for n in names}
    return factors(RAW, 4) | found


def test_whole_embeddings_are_for_merging(tmp_path: Path) -> None:
    both = "model.embed_tokens", "lm_head"
    how: dict[str, Any] = {"modules_to_save": ["embed_tokens", "lm_head"]}
    folder = write_peft(tmp_path / "a", RAW, tensors=whole_matrices(*both), **how)
    refused(folder, "modules_to_save", "qwell merge")
    whole = open_adapter(folder, CONFIG, to_merge=True).whole
    assert list(whole) == ["model.embed_tokens.weight", "lm_head.weight"]
    tied = ModelConfig.from_dict(RAW | {"tie_word_embeddings": True})
    with pytest.raises(UnsupportedModelError, match="ties its embedding"):  # two that differ
        open_adapter(folder, tied, to_merge=True)
    for tensors in (whole_matrices("lm_head"), factors(RAW, 4)):
        folder = write_peft(tmp_path / "b", RAW, tensors=tensors, **how)
        with pytest.raises(CheckpointError, match="is missing"):
            open_adapter(folder, CONFIG, to_merge=True)
    folder = write_peft(tmp_path / "c", RAW, modules_to_save=["score"])
    with pytest.raises(UnsupportedModelError, match="score"):
        open_adapter(folder, CONFIG, to_merge=True)
    folder = write_peft(tmp_path / "d", RAW, tensors=whole_matrices("lm_head"))
    with pytest.raises(UnsupportedModelError, match="lm_head"):  # its config does not say so
        open_adapter(folder, CONFIG, to_merge=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("r", 0), ("r", "8"), ("r", None), ("lora_alpha", float(-1)), ("r", True), ("r", 5000)],
)
def test_numbers_out_of_range(key: str, value: Any, tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "a", RAW, **{key: value})
    refused(folder, "adapter_config.json", kind=CheckpointError)


EXTRA = {
    "embedding": "base_model.model.model.embed_tokens.lora_embedding_A",
    "head": "base_model.model.lm_head.lora_A.weight",
    "dora": f"base_model.model.{Q0}.lora_magnitude_vector",
    "whole module": "base_model.model.model.norm.weight",
}


@pytest.mark.parametrize("name", EXTRA.values(), ids=EXTRA.keys())
def test_other_tensors_are_named(name: str, tmp_path: Path) -> None:
    tensors = factors(RAW, 4) | {name: np.ones((4, 64), np.float32)}
    refused(write_peft(tmp_path / "a", RAW, tensors=tensors), name, "not supported")


def test_an_adapter_of_another_model(tmp_path: Path) -> None:
    for i, other in enumerate(
        (
            tiny_config(hidden_size=128),
            tiny_config(num_hidden_layers=3),
            tiny_config(num_hidden_layers=1),
            tiny_config(intermediate_size=160),
        )
    ):
        folder = write_peft(tmp_path / str(i), other)
        refused(folder, "of another model", kind=CheckpointError)


def test_a_wrong_rank_and_a_missing_half(tmp_path: Path) -> None:
    tensors = factors(RAW, 4)
    refused(
        write_peft(tmp_path / "a", RAW, rank=8, tensors=tensors),
        "lora_A",
        "(4, 64)",
        "(8, 64)",
        kind=CheckpointError,
    )
    del tensors[f"base_model.model.{Q0}.lora_B.weight"]
    refused(
        write_peft(tmp_path / "b", RAW, tensors=tensors), "lora_B", "missing", kind=CheckpointError
    )


def test_what_is_not_finite(tmp_path: Path) -> None:
    tensors = factors(RAW, 4)
    tensors[f"base_model.model.{Q0}.lora_B.weight"][3, 1] = np.inf
    refused(
        write_peft(tmp_path / "a", RAW, tensors=tensors), "NaN or infinite", kind=CheckpointError
    )


def test_quantised_factors(tmp_path: Path) -> None:
    tensors: dict[str, Any] = factors(RAW, 4)
    name = f"base_model.model.{Q0}.lora_A.weight"
    tensors[name] = tensors[name].astype(np.int8)
    refused(write_peft(tmp_path / "a", RAW, tensors=tensors), name, "I8")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    refused(tmp_path / "a", "adapter_config.json", kind=NotFoundError)
    refused(tmp_path / "nowhere", "adapter_config.json", kind=NotFoundError)
    run = tmp_path / "run"  # of training
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "adapter_config.json").touch()
    refused(run, f"give {run}/adapter", kind=NotFoundError)
    folder = write_peft(tmp_path / "b", RAW)
    (folder / "adapter_model.safetensors").unlink()
    refused(folder, "adapter_model.safetensors", kind=NotFoundError)
    (folder / "adapter_model.bin").write_bytes(b"\x80")
    refused(folder, "pickle")


KEYS = ("r", "lora_alpha", "target_modules", "layers_to_transform", "rank_pattern", "bias")
KEYS += ("alpha_pattern", "init_lora_weights", "exclude_modules", "peft_type", "use_rslora")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from(KEYS), value=VALUES, whole=st.booleans())
def test_any_value_opens_or_is_refused(
    key: str, value: Any, whole: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    tensors = factors(RAW, 4)
    if not whole:
        tensors = {name: t for name, t in tensors.items() if "q_proj" not in name}
    write_peft(folder, RAW, tensors=tensors, **{key: value})
    try:
        assert open_adapter(folder, CONFIG).loras
    except QwellError as error:
        assert "\n" not in str(error)


def test_damaged_json(tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "a", RAW)
    (folder / "adapter_config.json").write_text(json.dumps([1]))
    refused(folder, "adapter_config.json", kind=CheckpointError)
