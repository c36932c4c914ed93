"""The program against its slow twins, bit for bit where the formula is the same.

fused = unfused; one thread = many; alone = in a crowd; chunked = whole; every instruction set.
Against the NumPy reference the bound is that of the number formats.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from qwell import _core
from qwell.checkpoint import open_checkpoint
from qwell.errors import UnsupportedModelError, UsageError
from qwell.model.batch import PAGE_SIZE, Batch
from qwell.model.reference import ReferenceModel
from qwell.model.weights import build_weights
from qwell.native import NativeModel
from qwell.native.pack import write_packed
from tests.checkpoint.make import random_tensors, tiny_config, write_gguf
from tests.native.handwritten import open_handwritten
from tests.native.tiny import open_native, tiny

CONFIGS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "wide heads": {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1},
    "seven to one": {"hidden_size": 448, "num_attention_heads": 7, "num_key_value_heads": 1},
    "odd sizes": {"vocab_size": 131, "intermediate_size": 160, "num_hidden_layers": 3},
}


def run(
    model: NativeModel | ReferenceModel, ids: list[int], chunks: list[int], logits: str = "all"
):
    """Logits of every position of one sequence, read in chunks."""
    pages = list(range(-(-len(ids) // PAGE_SIZE)))[::-1]  # pages out of order on purpose
    kv = model.new_kv(len(pages))
    out, past = [], 0
    for n in chunks:
        batch = Batch.make([ids[past : past + n]], past=[past], kv=kv, pages=[pages], logits=logits)
        out.append(model.step(batch))
        past += n
    assert past == len(ids)
    return np.concatenate(out)


def tokens(n: int, vocab: int = 96, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab, n).tolist()


@pytest.mark.parametrize("over", CONFIGS.values(), ids=CONFIGS.keys())
def test_float32_equals_reference(over: dict, tmp_path: Path) -> None:
    """With F32 weights only the bf16 keys and values differ."""
    checkpoint, pack = tiny(tmp_path, "F32", **over)
    reference = ReferenceModel(build_weights(checkpoint.config, checkpoint.tensors))
    ids = tokens(90)
    want = run(reference, ids, [90])
    got = run(open_native(checkpoint, pack), ids, [90])
    first = [run(m, ids[:1], [1]) for m in (reference, open_native(checkpoint, pack))]
    np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())
    assert np.abs(got - want).mean() < 0.002 * np.abs(want).max()
    assert first[0].shape == first[1].shape


@pytest.mark.parametrize("dtype", ["F32", "BF16", "Q4_0", "Q5_0", "Q8_0", "Q4_K", "Q6_K"])
def test_fused_equals_unfused(dtype: str, tmp_path: Path) -> None:
    checkpoint, pack = tiny(tmp_path, dtype)
    ids = tokens(70)
    fused = run(open_native(checkpoint, pack), ids, [66, 1, 3])
    unfused = run(open_native(checkpoint, pack, fused=False), ids, [66, 1, 3])
    np.testing.assert_array_equal(fused, unfused)


@pytest.mark.parametrize("over", CONFIGS.values(), ids=CONFIGS.keys())
def test_handwritten_list(over: dict, tmp_path: Path) -> None:
    """The fuser's program gives the bits of the list a hand would write."""
    checkpoint, pack = tiny(tmp_path, "Q8_0", **over)
    ids = tokens(70)
    by_hand = open_handwritten(pack, checkpoint.config, threads=2)
    fused = open_native(checkpoint, pack)
    np.testing.assert_array_equal(run(fused, ids, [66, 4]), run(by_hand, ids, [66, 4]))


@pytest.mark.parametrize("over", CONFIGS.values(), ids=CONFIGS.keys())
def test_threads_and_chunks(over: dict, tmp_path: Path) -> None:
    checkpoint, pack = tiny(tmp_path, "Q8_0", **over)
    ids = tokens(150)
    want = run(open_native(checkpoint, pack, num_threads=1), ids, [150])
    for threads in (2, 3):
        model = open_native(checkpoint, pack, num_threads=threads)
        for chunks in ([150], [1] * 150, [17] * 8 + [14], [64, 64, 22], [4, 5, 141]):
            np.testing.assert_array_equal(run(model, ids, chunks), want)


def test_alone_equals_in_a_crowd(tmp_path: Path) -> None:
    """Sequences of different pasts, prompts and single rows mixed in one step."""
    checkpoint, pack = tiny(tmp_path, "Q5_0", intermediate_size=160)
    model = open_native(checkpoint, pack)
    sequences = [tokens(n, seed=n) for n in (5, 70, 33, 129)]
    alone = [run(model, ids, [len(ids)], "all")[-2:] for ids in sequences]
    kv = model.new_kv(12)
    free = list(range(12))
    pages = [[free.pop() for _ in range(-(-len(ids) // PAGE_SIZE))] for ids in sequences]
    model.step(Batch.make([s[:-2] for s in sequences], kv=kv, pages=pages, logits="none"))
    past = [len(s) - 2 for s in sequences]
    for i in (0, 1):
        rows = [[s[len(s) - 2 + i]] for s in sequences]
        got = model.step(Batch.make(rows, past=[p + i for p in past], kv=kv, pages=pages))
        np.testing.assert_array_equal(got, np.stack([a[i] for a in alone]))


def test_instruction_sets_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but amx, whose prompt rows have a formula of their own (test_roles.py), and avx512bf16,
    whose attention has."""
    checkpoint, pack = tiny(tmp_path, "Q4_K")
    ids, results = tokens(40), {}
    for isa in set(_core.isa_available()) - {"amx", "avx512bf16"}:
        monkeypatch.setenv("QWELL_FORCE_ISA", isa)
        model = open_native(checkpoint, pack)
        assert model.isa == isa
        results[isa] = run(model, ids, [33, 1, 6])
    for isa, got in results.items():
        np.testing.assert_array_equal(got, results["scalar"], err_msg=isa)


def test_unknown_instruction_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, pack = tiny(tmp_path)
    monkeypatch.setenv("QWELL_FORCE_ISA", "sse9")
    with pytest.raises(UsageError, match=r"QWELL_FORCE_ISA.*choose one of"):
        open_native(checkpoint, pack)


def test_odd_head_dim_is_refused(tmp_path: Path) -> None:
    checkpoint, pack = tiny(tmp_path, head_dim=24)
    with pytest.raises(UnsupportedModelError, match="head_dim 24"):
        open_native(checkpoint, pack)


def good_batch(model: NativeModel) -> dict:
    made = Batch.make([[1, 2, 3], [4]], past=[0, 64], kv=model.new_kv(4), pages=[[0], [1, 2]])
    return dict(vars(made))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("input_ids", [1, 2, 3, 96], "not in the vocabulary"),
        ("input_ids", [1, 2, 3, -1], "not in the vocabulary"),
        ("row_splits", [0, 3, 5], "cover"),
        ("row_splits", [0, 0, 4], "without rows"),
        ("row_splits", [0, 35_000_000, 4], "without rows"),
        ("past", [0, 128], "fewer pages"),
        ("past", [-1, 64], "without rows"),
        ("prompt_len", [3, -(2**31)], "less than no"),
        ("positions", [0, 1, 2, 65], "positions"),
        ("out_rows", [2, 4], "out of range"),
        ("page_table", [[0, 0], [1, 4]], "page is out"),
        ("page_table", [[0, 0], [-1, 2]], "page is out"),
    ],
)
def test_bad_batches_are_refused(field: str, value: list, message: str, tmp_path: Path) -> None:
    checkpoint, pack = tiny(tmp_path)
    model = open_native(checkpoint, pack)
    parts = good_batch(model)
    model.step(Batch(**parts))
    with pytest.raises(ValueError, match=message):
        model.step(Batch(**parts | {field: np.array(value, np.int32)}))


def test_a_sequence_longer_than_the_cache_is_refused(tmp_path: Path) -> None:
    """A page that comes twice in its table: there are fewer angles of int8 keys than places."""
    checkpoint, pack = tiny(tmp_path)
    model = open_native(checkpoint, pack, kv_dtype="int8")
    with pytest.raises(ValueError, match="longer than its cache"):
        model.step(Batch.make([[4]], past=[64], kv=model.new_kv(1), pages=[[0, 0]]))


def test_a_program_that_could_not_be_finished_takes_no_step(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
import numpy as np
from qwell import _core
inputs = 1 << 16
path = Path(sys.argv[1]) / "w.bin"
path.write_bytes(bytes(32 * inputs * 4))
made = _core.Program(64, 4, 2, 16, 1, 32, 4096, 1, str(path), 32 * inputs * 4)
slot, head = made.slot(inputs), made.product(_core.Format.F32, 32, inputs, 0, 32)
head.to_output()
made.linear("head", slot, False, False, None, 0.0, [head])
none, angles = np.zeros(0, np.float32), np.ones(8, np.float32)
kv = _core.KvCache(1, 2, 16, 1, none, none, angles, False)
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (mapped + (1200 << 20), most))  # the slots alone fit
try:
    made.finish()
except MemoryError:
    zero, one = np.zeros(1, np.int32), np.ones(1, np.int32)
    parts = (zero, np.array([0, 1], np.int32), zero, one, zero, zero, zero[None])
    try:
        made.step(*parts, kv, np.zeros((1, 32), np.float32))
    except ValueError as error:
        sys.exit(7 if "not finished" in str(error) else 8)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == 7


def test_too_many_rows(tmp_path: Path) -> None:
    checkpoint, pack = tiny(tmp_path)
    model = open_native(checkpoint, pack, max_rows=8)
    with pytest.raises(ValueError, match=r"1 \.\. 8 rows, got 9"):
        run(model, tokens(9), [9])


def test_times_cover_every_phase(tmp_path: Path) -> None:
    checkpoint, pack = tiny(tmp_path)
    model = open_native(checkpoint, pack)
    run(model, tokens(8), [8])
    times = model.take_times()
    assert [name for name, _ in times[:3]] == ["angles", "embed", "q_proj+k_proj+v_proj"]
    assert all(t > 0 for _, t in times)
    assert all(t == 0 for _, t in model.take_times())


def test_forked_child_is_refused(tmp_path: Path) -> None:
    """A forked process has no worker threads: a step there must fail, not hang."""
    script = """
import os, sys
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from qwell.checkpoint import open_checkpoint
from qwell.model.batch import Batch
from qwell.native import NativeModel
folder = Path(sys.argv[1])
model = NativeModel.open(folder / "pack", open_checkpoint(folder / "model").config, num_threads=2)
kv = model.new_kv(1)
if os.fork() == 0:
    try:
        model.step(Batch.make([[1]], kv=kv, pages=[[0]]))
    except RuntimeError as error:
        os._exit(7 if "before a fork" in str(error) else 8)
    os._exit(9)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    tiny(tmp_path)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == 7


def test_a_forked_child_can_let_go_of_a_program(tmp_path: Path) -> None:
    """Its threads are not there: to wait for them was a fault of memory, or had no end."""
    program(tmp_path)
    script = """
import os, signal, sys, threading
from qwell import _core
made = [_core.Program(64, 4, 2, 16, 1, 96, 8, 4, sys.argv[1], 1 << 16) for _ in range(3)]
if os.fork() == 0:
    signal.alarm(20)
    for _ in range(9):  # these may get the memory of those
        threading.Thread(target=lambda: None).start()
    made.clear()
    os._exit(7)
os._exit(os.waitstatus_to_exitcode(os.wait()[1]) % 256)
"""
    argv = [sys.executable, "-c", script, str(tmp_path / "w.bin")]
    assert subprocess.run(argv, timeout=60, check=False).returncode == 7


def test_threads_of_python_take_turns(tmp_path: Path) -> None:
    checkpoint, pack = tiny(tmp_path, "Q8_0")
    model = open_native(checkpoint, pack)
    prompts = [tokens(40, seed=s) for s in range(6)]
    want = [run(model, ids, [40]) for ids in prompts]
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda ids: run(model, ids, [17, 23]), prompts))
    np.testing.assert_array_equal(np.stack(got), np.stack(want))


def test_no_logits_cost_no_head(tmp_path: Path) -> None:
    """A chunk that wants no logits does not walk the head's matrix."""
    checkpoint, pack = tiny(tmp_path, "Q8_0", vocab_size=60_000)
    model = open_native(checkpoint, pack, num_threads=1)  # no barrier in the time

    def head_seconds(logits: str) -> float:
        run(model, tokens(8), [8], logits)
        return dict(model.take_times())["lm_head"]

    none, last = (min(head_seconds(want) for _ in range(20)) for want in ("none", "last"))
    assert none < last / 2


def test_what_is_not_finite_reaches_the_logits(tmp_path: Path) -> None:
    """An overflow inside must not come out as an ordinary number: the engine refuses NaN."""
    config = tiny_config()
    tensors = random_tensors(config)
    tensors["model.layers.0.input_layernorm.weight"][:] = 3e38
    checkpoint = open_checkpoint(
        write_gguf(tmp_path / "m.gguf", config, tensors, {"default": "Q8_0"})
    )
    write_packed(tmp_path, checkpoint.tensors)
    logits = run(open_native(checkpoint, tmp_path), tokens(5), [5])
    assert not np.isfinite(logits).all(axis=1).any()


def program(tmp_path: Path) -> _core.Program:
    """A program with slots 0 (64 wide), 1 (16 wide: angles), 2 (64) and weights to try."""
    (tmp_path / "w.bin").write_bytes(bytes(1 << 16))
    made = _core.Program(64, 4, 2, 16, 1, 96, 8, 1, str(tmp_path / "w.bin"), 1 << 16)
    for width in (64, 16, 64):
        made.slot(width)
    return made


def product(p: _core.Program, n: int = 64, k: int = 64, unit: int = 32) -> _core.Product:
    made = p.product(_core.Format.Q8_0, n, k, 0, unit)
    made.to_slot(2)
    return made


def _with(p: _core.Program, change: Callable[[_core.Product], object], **shape: int) -> None:
    made = product(p, **shape)
    change(made)
    p.linear("test", 0, False, False, None, 0.0, [made])


ONES = np.ones(64, np.float32)


@pytest.mark.parametrize(
    "fault",
    [
        lambda p: p.slot(0),
        lambda p: p.slot(2**31 - 1),
        lambda p: p.product(_core.Format.Q8_0, 2**31 - 1, 64, 0, 32),
        lambda p: p.product(_core.Format.Q8_0, 64, 2**31 - 1, 0, 32),
        lambda p: p.embed(0, _core.Format.Q8_0, 96, 2048, 0),
        lambda p: p.embed(2, _core.Format.Q8_0, 32, 64, 0),
        lambda p: p.attention(0, 1, 0),
        lambda p: p.attention(0, 2, 1),
        lambda p: p.store(0, 0, True),
        lambda p: p.norm(0, 2, False, ONES[:0], 1e-6),
        lambda p: p.norm(0, 1, False, ONES[:16], 1e-6),
        lambda p: p.row_op("add", 0, 1, 2, False),
        lambda p: p.row_op("rope", 0, 2, 2, False),
        lambda p: p.row_op("add", 0, 7, 2, False),
        lambda p: p.angles(0, ONES[:8]),
        lambda p: p.linear("test", 0, False, False, None, 0.0, []),
        lambda p: p.linear("test", 9, False, False, None, 0.0, [product(p)]),
        lambda p: p.linear("test", 0, False, False, np.ones(96, np.float32), 1e-6, [product(p)]),
        lambda p: p.product(_core.Format.Q8_0, 64, 64, 1 << 15, 48),
        lambda p: p.product(_core.Format.Q8_0, 64, 64, 1 << 20, 32),
        lambda p: p.product(_core.Format.Q8_0, 64, 64, -64, 32),
        lambda p: _with(p, lambda q: q.norm(ONES[:0], 1e-6)),
        lambda p: _with(p, lambda q: q.norm(ONES[:24], 1e-6)),
        lambda p: _with(p, lambda q: q.add(1)),
        lambda p: _with(p, lambda q: q.rope(2)),
        lambda p: _with(p, lambda q: q.silu_mul(3)),
        lambda p: _with(p, lambda q: q.silu_mul(0)),
        lambda p: _with(p, lambda q: q.to_keys(0)),
        lambda p: _with(p, lambda q: q.to_output()),
        lambda p: _with(p, lambda q: q.bias(ONES[:3])),
        lambda p: _with(p, lambda q: q.to_slot(1)),
        lambda p: _with(p, lambda q: None, k=512),
        lambda p: p.finish(),
    ],
)
def test_unsound_phases_are_refused(fault: Callable[[_core.Program], object], tmp_path) -> None:
    with pytest.raises(ValueError):
        fault(program(tmp_path))


def test_a_finished_program_takes_no_more(tmp_path: Path) -> None:
    p = program(tmp_path)
    p.linear("test", 0, False, False, None, 0.0, [product(p)])
    p.finish()
    for change in (
        p.finish,
        lambda: p.slot(8),
        lambda: p.linear("test", 0, False, False, None, 0.0, [product(p)]),
    ):
        with pytest.raises(ValueError):
            change()


def test_results_are_never_written_to_a_copy() -> None:
    """An output of another type is refused, not filled in a temporary and lost."""
    with pytest.raises(TypeError):
        _core.row_op("scalar", "add", ONES, ONES, 64, 0.0, np.zeros(64, np.float64))
