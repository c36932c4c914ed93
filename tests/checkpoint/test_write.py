"""Exported files: read back by the packages of others, whole or not there, never over anything."""

from __future__ import annotations

import json
import os
import resource
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors import safe_open

from qwell.checkpoint import Checkpoint, open_checkpoint, write_gguf, write_hf
from qwell.checkpoint.blocks import dequantise
from qwell.checkpoint.names import to_gguf
from qwell.errors import CheckpointError, StorageError, UsageError
from tests.checkpoint.make import random_tensors, tiny_config, write_folder
from tests.checkpoint.make import write_gguf as their_gguf
from tests.model.tiny import FloatTensor

Write = Callable[..., None]
CONFIGS: dict[str, dict[str, Any]] = {
    "untied": {},
    "tied": {"tie_word_embeddings": True},
    "head size of its own": {"head_dim": 32},
    "odd base": {"rope_theta": 1e4, "rms_norm_eps": 1e-5, "num_hidden_layers": 3},
}


def source(tmp: Path, dtype: str = "f32", **over: Any) -> Checkpoint:
    config = tiny_config(**over)
    generation = {"eos_token_id": [95, 90], "do_sample": True, "top_k": 20, "temperature": 0.7}
    folder = tmp / "source"
    write_folder(folder, config, random_tensors(config), dtype, generation=generation)
    return open_checkpoint(folder)


def export(write: Write, out: Path, model: Checkpoint, **how: Any) -> Checkpoint:
    write(out, model.config, model.generation, model.tensors, **how)
    return open_checkpoint(out)


def same_bits(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name].float32(), b[name].float32(), err_msg=name)


@pytest.mark.parametrize("over", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_round_is_exact(dtype: str, over: dict[str, Any], tmp_path: Path) -> None:
    """folder -> GGUF -> folder: config, sampling, every bit of every tensor."""
    model = source(tmp_path, dtype, **over)
    middle = export(write_gguf, tmp_path / "m.gguf", model, dtype=dtype)
    back = export(write_hf, tmp_path / "back", middle, dtype=dtype)
    for copy in (middle, back):
        assert copy.config == model.config
        same_bits(copy.tensors, model.tensors)
    assert back.generation == middle.generation
    stated = middle.generation
    assert (stated.temperature, stated.top_k, stated.do_sample) == (0.7, 20, True)


def test_q8_0_is_what_the_gguf_package_makes(tmp_path: Path) -> None:
    model = source(tmp_path)
    ours = export(write_gguf, tmp_path / "m.gguf", model, dtype="q8_0")
    config = tiny_config()
    theirs = open_checkpoint(
        their_gguf(tmp_path / "t.gguf", config, random_tensors(config), {"default": "Q8_0"})
    )
    for name, tensor in theirs.tensors.items():
        assert ours.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(ours.tensors[name].data, tensor.data, err_msg=name)
    again = export(write_gguf, tmp_path / "again.gguf", ours, dtype="q8_0")
    same_bits(again.tensors, ours.tensors)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8_0"])
def test_the_gguf_package_reads_it(dtype: str, tmp_path: Path) -> None:
    model = source(tmp_path)
    keys = {
        "tokenizer.ggml.tokens": ["a", "\u0120b", "<|im_end|>"],
        "tokenizer.ggml.token_type": [1, 1, 3],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ 'caf\u00e9' }}",
    }
    export(write_gguf, tmp_path / "m.gguf", model, dtype=dtype, tokenizer=keys, name="Mine")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    found = {key: field.contents() for key, field in reader.fields.items()}
    assert {key: found[key] for key in keys} == keys
    assert found["general.architecture"] == "qwen2" and found["general.name"] == "Mine"
    file_type = {"f32": "ALL_F32", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}[dtype]
    assert found["general.file_type"] == gguf.LlamaFileType[file_type]
    assert found["qwen2.block_count"] == 2 and found["qwen2.attention.head_count_kv"] == 2
    assert found["qwen2.rope.freq_base"] == 1e6
    assert found["general.sampling.top_k"] == 20
    assert [t.name for t in reader.tensors] == [to_gguf(name) for name in model.tensors]
    for tensor, ours in zip(reader.tensors, model.tensors.values()):
        kind = "F32" if len(ours.shape) == 1 else dtype.upper()
        assert tensor.tensor_type.name == kind
        values = dequantise(kind, np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8))
        atol = {"F32": 0, "BF16": 2e-3, "Q8_0": 3e-3}[kind]
        np.testing.assert_allclose(values, ours.float32().reshape(-1), rtol=0, atol=atol)


@pytest.mark.parametrize("shard_bytes", [10**9, 20_000, 1])
def test_safetensors_reads_the_shards(shard_bytes: int, tmp_path: Path) -> None:
    model = source(tmp_path)
    files = {"tokenizer.json": b"{}"}
    out = tmp_path / "out"
    copy = export(write_hf, out, model, dtype="f32", shard_bytes=shard_bytes, files=files)
    same_bits(copy.tensors, model.tensors)
    assert (out / "tokenizer.json").read_bytes() == b"{}"
    shards = sorted(out.glob("*.safetensors"))
    assert (len(shards) == 1) == (shard_bytes == 10**9)
    found = {}
    for shard in shards:
        with safe_open(shard, "numpy") as opened:
            assert opened.metadata() == {"format": "pt"}
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    assert set(found) == set(model.tensors)
    for name, values in found.items():
        np.testing.assert_array_equal(values, model.tensors[name].float32())
    index = out / "model.safetensors.index.json"
    assert index.exists() == (len(shards) > 1)
    if index.exists():
        total = json.loads(index.read_text())["metadata"]["total_size"]
        assert total == sum(len(t.data) for t in model.tensors.values())
        assert max(s.stat().st_size for s in shards) <= max(shard_bytes, 96 * 64 * 4) + 10_000


# --- whole or not at all -------------------------------------------------------------------------

WRITERS = [pytest.param(write_gguf, "m.gguf", id="gguf"), pytest.param(write_hf, "m", id="hf")]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def bytes_of(path: Path) -> Any:
    if path.is_file():
        return path.read_bytes()
    return {child.name: child.read_bytes() for child in path.iterdir()}


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_nothing_is_replaced_unless_forced(write: Write, name: str, tmp_path: Path) -> None:
    model, out = source(tmp_path), tmp_path / name
    export(write, out, model, dtype="bf16")
    before = bytes_of(out)
    with pytest.raises(UsageError, match="--force"):
        export(write, out, model, dtype="f32")
    assert bytes_of(out) == before
    export(write, out, model, dtype="f32", force=True)
    assert bytes_of(out) != before
    assert names_in(tmp_path) == sorted([name, "source"])


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_a_fault_leaves_what_was_there(write: Write, name: str, tmp_path: Path) -> None:
    model, out = source(tmp_path), tmp_path / name
    export(write, out, model)
    before = bytes_of(out)
    bad = dict(model.tensors)
    bad["model.norm.weight"] = FloatTensor("model.norm.weight", np.full(64, np.nan, np.float32))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        write(out, model.config, model.generation, bad, force=True)
    assert bytes_of(out) == before
    assert names_in(tmp_path) == sorted([name, "source"])


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_a_full_disk_is_told(
    write: Write, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = source(tmp_path), tmp_path / name
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 1000}))
        with pytest.raises(StorageError, match="GB are needed"):
            export(write, out, model)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # no file grows beyond it
    try:
        with pytest.raises(StorageError, match=r"disk is full.*nothing was changed"):
            export(write, out, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names_in(tmp_path) == ["source"]


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_leftovers_of_the_dead_go(write: Write, name: str, tmp_path: Path) -> None:
    model, out = source(tmp_path), tmp_path / name
    dead = tmp_path / f".{name}.{2**22 + 1}.unfinished"  # above the largest process id
    alive = tmp_path / f".{name}.{os.getppid()}.unfinished"
    for left in (dead, alive):
        left.mkdir()
        (left / "x").write_bytes(b"x")
    export(write, out, model)
    assert not dead.exists() and alive.exists()


@pytest.mark.parametrize("inside", ["notes.txt", "config.json photos/", "config.json notes.txt"])
def test_force_never_deletes_another_folder(inside: str, tmp_path: Path) -> None:
    model, out = source(tmp_path), tmp_path / "home"
    out.mkdir()
    for name in inside.split():
        (out / name).mkdir() if name.endswith("/") else (out / name).write_text("mine")
    before = names_in(out)
    with pytest.raises(UsageError, match=r"more than a model \((notes\.txt|photos)\)"):
        export(write_hf, out, model, force=True)
    assert names_in(out) == before


def test_what_a_killed_swap_moved_away_is_put_back(tmp_path: Path) -> None:
    """Between its two renames the model has neither name; it was left lying, and its place free."""
    model, out = source(tmp_path), tmp_path / "m[1]"
    export(write_hf, out, model, dtype="f32")
    before = bytes_of(out)
    left = tmp_path / f".{out.name}.{2**22 + 1}.old"
    out.rename(left)
    with pytest.raises(UsageError, match="--force"):
        export(write_hf, out, model)
    assert bytes_of(out) == before

    out.rename(left)
    export(write_hf, out, model, force=True)
    assert bytes_of(out) != before
    assert names_in(tmp_path) == [out.name, "source"]


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_two_at_a_time_replace_nothing_without_force(
    write: Write, name: str, tmp_path: Path
) -> None:
    """The second to end took the place of the first, whatever was said about force."""
    model, out = source(tmp_path), tmp_path / name
    made: list[Checkpoint] = []

    def meanwhile(done: int, total: int) -> None:
        if not made:
            made.append(export(write, out.with_name("other"), model, dtype="f32"))
            out.with_name("other").rename(out)

    with pytest.raises(UsageError, match="--force"):
        export(write, out, model, dtype="bf16", progress=meanwhile)
    same_bits(open_checkpoint(out).tensors, model.tensors)
    assert names_in(tmp_path) == sorted([name, "source"])


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    model, out = source(tmp_path), tmp_path / "m"
    out.mkdir()
    same_bits(export(write_hf, out, model, dtype="f32").tensors, model.tensors)


def test_a_file_where_a_folder_is_asked_and_back(tmp_path: Path) -> None:
    model = source(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="no folder"):
        export(write_hf, tmp_path / "file", model, force=True)
    with pytest.raises(UsageError, match="is a folder"):
        export(write_gguf, tmp_path / "source", model, force=True)


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_memory_is_a_slab_not_a_model(write: Write, name: str, tmp_path: Path) -> None:
    """A weight of 134 MB in float32 passes through in a sixteenth of that."""

    class Wide:
        name, shape, dtype = "model.embed_tokens.weight", (1 << 15, 1 << 10), "F32"

        def float32(self, start: int = 0, stop: int | None = None) -> np.ndarray:
            return np.ones(((stop or self.shape[0]) - start, self.shape[1]), np.float32)

    model, seen = source(tmp_path), []
    tracemalloc.start()
    write(
        tmp_path / name,
        model.config,
        model.generation,
        {Wide.name: Wide()},
        progress=lambda done, total: seen.append((done, total)),
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 << 20
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == seen[-1][1] == 2 << 25


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    model, seen = source(tmp_path), []
    export(write_hf, tmp_path / "m", model, progress=lambda d, t: seen.append((d, t)))
    assert seen[-1][0] == seen[-1][1] and len(seen) == len(model.tensors)
