"""Packing moves numbers and changes none: what comes out of the panels is what the file holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qwell import _core
from qwell.checkpoint import open_checkpoint
from qwell.checkpoint.blocks import FORMATS
from qwell.errors import CheckpointError, StorageError
from qwell.native import packed_key
from qwell.native.pack import packed_nbytes, panel_nbytes, quantise_q8, write_packed
from qwell.native.packed import read_table
from tests.checkpoint.make import random_tensors, tiny_config, write_folder
from tests.native.tiny import open_native, tiny


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_number_survives(dtype: str, tmp_path: Path) -> None:
    checkpoint, pack = tiny(tmp_path, dtype, vocab_size=101)  # 101: the last panel is not full
    tensors, size = read_table(pack)
    assert size == (pack / "weights.bin").stat().st_size
    assert tensors.keys() == checkpoint.tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(tensors[name].float32(), tensor.float32(), err_msg=name)


@pytest.mark.parametrize("dtype", FORMATS)
def test_sizes_are_those_of_the_core(dtype: str) -> None:
    inputs, nbytes, _ = _core.format_info(getattr(_core.Format, dtype))
    assert panel_nbytes(dtype, 512) == 512 // inputs * nbytes
    assert packed_nbytes(dtype, (33, 512)) == 2 * panel_nbytes(dtype, 512)


def test_int8_is_within_half_a_step(tmp_path: Path) -> None:
    config = tiny_config(tie_word_embeddings=True)
    write_folder(tmp_path / "m", config, random_tensors(config), dtype="bf16")
    checkpoint = open_checkpoint(tmp_path / "m")
    write_packed(tmp_path, checkpoint.tensors, int8=True)
    tensors, _ = read_table(tmp_path)
    for name, tensor in checkpoint.tensors.items():
        want, got = tensor.float32(), tensors[name].float32()
        if want.ndim == 1:
            np.testing.assert_array_equal(got, want)
            continue
        assert tensors[name].dtype == "Q8_0"
        step = np.abs(want.reshape(-1, 32)).max(1) / 127
        error = np.abs(got - want).reshape(-1, 32).max(1)
        assert (error <= step * 0.5 * 1.002 + step * 127 * 2.0**-11).all()


def test_quantise_zero_rows() -> None:
    codes = quantise_q8(np.zeros((2, 64), np.float32))
    assert (codes.floats() == 0).all()


def test_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    config = tiny_config()
    tensors = random_tensors(config)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    write_folder(tmp_path / "m", config, tensors, dtype="f32")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj"):
        write_packed(tmp_path, open_checkpoint(tmp_path / "m").tensors)


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    checkpoint, _ = tiny(tmp_path)
    seen: list[tuple[int, int]] = []
    write_packed(tmp_path, checkpoint.tensors, progress=lambda *p: seen.append(p))
    assert seen == sorted(seen)
    assert 0 <= seen[-1][1] - seen[-1][0] < 64 * len(checkpoint.tensors)


def test_key_follows_the_file(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"x"), b.write_bytes(b"x")
    before = packed_key([a, b])
    assert before == packed_key([b, a])
    assert before != packed_key([a])
    a.write_bytes(b"xy")
    assert before != packed_key([a, b])


@pytest.mark.parametrize("fault", ["cut", "version", "json", "list", "no tensor", "missing"])
def test_damaged_pack_is_one_line(fault: str, tmp_path: Path) -> None:
    checkpoint, pack = tiny(tmp_path)
    table, data = pack / "weights.json", pack / "weights.bin"
    if fault == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif fault == "version":
        table.write_text(json.dumps(json.loads(table.read_text()) | {"version": 0}))
    elif fault == "json":
        table.write_text("{")
    elif fault == "list":
        table.write_text(json.dumps(json.loads(table.read_text()) | {"tensors": []}))
    elif fault == "no tensor":
        told = json.loads(table.read_text())
        del told["tensors"]["model.norm.weight"]
        table.write_text(json.dumps(told))
    else:
        data.unlink()
    with pytest.raises(StorageError, match="delete that folder") as caught:
        open_native(checkpoint, pack)
    assert "\n" not in str(caught.value)
