"""An adapter in the program: the bits of its slow twin, the numbers of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwell import _core
from qwell.checkpoint import open_adapter
from qwell.checkpoint.tensor import Checkpoint
from qwell.model.batch import Batch
from qwell.model.reference import ReferenceModel
from qwell.model.weights import build_weights
from qwell.native import NativeModel
from qwell.native.fuse import fuse, listing
from qwell.native.record import record
from tests.checkpoint.adapters import ALL, write_peft
from tests.checkpoint.make import tiny_config
from tests.native.test_program import run, tokens
from tests.native.tiny import K_QUANTS, open_native, tiny

Loras = Any


def with_adapter(
    tmp: Path, dtype: str, rank: int = 16, targets: Sequence[str] = ALL, **over: Any
) -> tuple[Checkpoint, Path, Loras]:
    tmp.mkdir(exist_ok=True)
    checkpoint, pack = tiny(tmp, dtype, **over)
    if dtype in K_QUANTS:
        over = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64} | over
    folder = write_peft(tmp / "adapter", tiny_config(**over), rank, targets, lora_alpha=2 * rank)
    return checkpoint, pack, open_adapter(folder, checkpoint.config).loras


def reference(checkpoint: Checkpoint, loras: Loras) -> ReferenceModel:
    return ReferenceModel(build_weights(checkpoint.config, checkpoint.tensors, loras))


@pytest.mark.parametrize("rank", [1, 2, 3, 16, 33, 64, 256])
def test_float32_equals_reference(rank: int, tmp_path: Path) -> None:
    """With F32 weights only the bf16 keys and values differ; the adapter is seen."""
    checkpoint, pack, loras = with_adapter(tmp_path, "F32", rank)
    ids = tokens(90)
    want = run(reference(checkpoint, loras), ids, [90])
    got = run(open_native(checkpoint, pack, adapters=loras), ids, [90])
    base = run(reference(checkpoint, None), ids, [90])
    assert np.abs(want - base).max() > 0.3 * np.abs(base).max()
    np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())
    assert np.abs(got - want).mean() < 0.002 * np.abs(want).max()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("rank", [3, 16])
def test_over_other_formats(dtype: str, rank: int, tmp_path: Path) -> None:
    """As far from the reference as the base is without it, or little more."""
    checkpoint, pack, loras = with_adapter(tmp_path, dtype, rank)
    ids = tokens(90)
    errors = []
    for added in (None, loras):
        want = run(reference(checkpoint, added), ids, [90])
        for chunks in ([90], [1] * 90):
            got = run(open_native(checkpoint, pack, adapters=added), ids, chunks)
            errors.append(np.abs(got - want).mean() / np.abs(want).std())
    assert max(errors[2:]) < 2 * max(errors[:2]) + 0.01


@pytest.mark.parametrize("dtype", ["F32", "BF16", "Q5_0", "Q4_K"])
@pytest.mark.parametrize("targets", [ALL, ("q_proj", "v_proj"), ("up_proj",), ("down_proj",)])
def test_fused_equals_unfused(dtype: str, targets: Sequence[str], tmp_path: Path) -> None:
    checkpoint, pack, loras = with_adapter(tmp_path, dtype, 5, targets)
    ids = tokens(70)
    fused = run(open_native(checkpoint, pack, adapters=loras), ids, [66, 1, 3])
    unfused = run(open_native(checkpoint, pack, adapters=loras, fused=False), ids, [66, 1, 3])
    np.testing.assert_array_equal(fused, unfused)


@pytest.mark.parametrize("isa", _core.isa_available())
def test_threads_and_chunks(isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWELL_FORCE_ISA", isa)
    checkpoint, pack, loras = with_adapter(tmp_path, "Q8_0", 7, intermediate_size=160)
    ids = tokens(70)
    want = run(open_native(checkpoint, pack, num_threads=1, adapters=loras), ids, [70])
    for threads in (1, 2, 3):
        model = open_native(checkpoint, pack, num_threads=threads, adapters=loras)
        for chunks in ([70], [1] * 70, [17] * 4 + [2], [4, 5, 61]):
            np.testing.assert_array_equal(run(model, ids, chunks), want)


def test_alone_equals_in_a_crowd(tmp_path: Path) -> None:
    checkpoint, pack, loras = with_adapter(tmp_path, "Q5_0", 16)
    model = open_native(checkpoint, pack, adapters=loras)
    sequences = [tokens(n, seed=n) for n in (5, 70, 33, 129)]
    alone = [run(model, ids, [len(ids)])[-1] for ids in sequences]
    kv, pages = model.new_kv(8), [[0], [1, 2], [3], [4, 5, 6]]
    got = model.step(Batch.make(sequences, kv=kv, pages=pages))
    np.testing.assert_array_equal(got, np.stack(alone))


def test_instruction_sets_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but amx and avx512bf16, which have formulas of their own."""
    checkpoint, pack, loras = with_adapter(tmp_path, "Q4_K", 9)
    ids, results = tokens(40), {}
    for isa in set(_core.isa_available()) - {"amx", "avx512bf16"}:
        monkeypatch.setenv("QWELL_FORCE_ISA", isa)
        results[isa] = run(open_native(checkpoint, pack, adapters=loras), ids, [33, 1, 6])
    for isa, got in results.items():
        np.testing.assert_array_equal(got, results["scalar"], err_msg=isa)


def test_factors_have_the_precision_of_their_matrix(tmp_path: Path) -> None:
    sizes = {}
    for dtype in ("F32", "F16", "BF16", "Q8_0"):
        checkpoint, pack, loras = with_adapter(tmp_path / dtype, dtype, 32)
        model: NativeModel = open_native(checkpoint, pack, adapters=loras)
        numbers = sum(
            lora.a.data.size // 4 + lora.b.tensor.data.size // 4 for lora in loras.values()
        )
        sizes[dtype] = model.adapter_bytes / numbers
        bare = open_native(checkpoint, pack)
        assert bare.adapter_bytes == 0
        assert model.memory_bytes == bare.memory_bytes + model.adapter_bytes
    assert sizes == {"F32": 4, "F16": 2, "BF16": 2, "Q8_0": 2}


def test_phases(tmp_path: Path) -> None:
    """Thirteen phases a layer: what an adapter adds waits for z = A x of all columns."""
    checkpoint, _, loras = with_adapter(tmp_path, "F32")
    phases = fuse(record(build_weights(checkpoint.config, checkpoint.tensors, loras)))
    assert len(phases) == 2 + 13 * 2 + 1
    text = listing(phases)
    assert text.count("linear(lora_B)+add+rope->keys") == 2
    assert text.count("linear(lora_B)+add->values") == 2
    assert text.count("linear(lora_B)+add+add->") == 4


def test_append_is_checked(tmp_path: Path) -> None:
    checkpoint, pack, _ = with_adapter(tmp_path, "F32")
    size = (pack / "weights.bin").stat().st_size
    c = checkpoint.config
    shape = (c.hidden_size, c.num_heads, c.num_kv_heads, c.head_dim, c.num_layers, c.vocab_size)
    program = _core.Program(*shape, 8, 1, str(pack / "weights.bin"), size)
    behind = -(-size // 64) * 64
    where = (_core.Format.F32, 32, 2)  # one panel of 256 bytes
    with pytest.raises(ValueError, match="outside"):
        program.product(*where, behind, 32)
    program.append(np.zeros(512, np.uint8))
    program.product(*where, behind + 256, 32)
    for wrong in (behind + 320, behind + 512, -64, 2**62):
        with pytest.raises(ValueError, match=r"outside|border"):
            program.product(*where, wrong, 32)
    with pytest.raises(ValueError, match="once"):
        program.append(np.zeros(64, np.uint8))
