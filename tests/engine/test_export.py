"""Models on their way out and in again; adapters from load to merge."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import qwell
from qwell.checkpoint import open_adapter, open_checkpoint
from qwell.engine.engine import Engine
from qwell.engine.export import export
from qwell.engine.types import Request, SamplingParams
from qwell.errors import CheckpointError, UsageError
from tests.checkpoint.adapters import write_peft
from tests.cli.tiny import config, write_model
from tests.engine.hunt import Facts, Limits, draw_schedule, hunt
from tests.engine.tiny import END_OF_TEXT, EOS, NUM_TOKENS, VOCAB_SIZE, Rowwise, make_tokenizer
from tests.native.test_adapter import with_adapter
from tests.native.tiny import open_native

ASK = {"max_tokens": 20, "ignore_eos": True, "temperature": 0.0}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWELL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QWELL_OFFLINE", "1")


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_model(tmp_path / "model"))


def answer(model: str | Path, **how: Any) -> tuple[int, ...]:
    return tuple(qwell.load(str(model), **how).chat("Hello there", **ASK).token_ids)


FORMS = [("hf", "bf16"), ("hf", "f32"), ("gguf", "bf16"), ("gguf", "f32")]


@pytest.mark.parametrize(("format", "dtype"), FORMS)
def test_an_export_gives_our_greedy_text(
    model: str, format: str, dtype: str, tmp_path: Path
) -> None:
    out = tmp_path / ("x.gguf" if format == "gguf" else "x")
    seen: list[tuple[int, int]] = []
    export(model, out, format=format, dtype=dtype, progress=lambda d, t: seen.append((d, t)))
    # In float32 the native back end has other formulas than in bf16; the numbers are the same.
    how = {"backend": "reference"} if dtype == "f32" else {}
    assert answer(out, **how) == answer(model, **how) and seen[-1][0] == seen[-1][1]
    ours, theirs = qwell.load(str(out)), qwell.load(model)
    assert ours.template and theirs.template
    assert ours.template.source == theirs.template.source
    text = "a<|im_end|>b \u00e9"
    for special in (False, True):
        ids = theirs.tokenizer.encode(text, allow_special=special)
        assert ours.tokenizer.encode(text, allow_special=special) == ids
    assert ours.generation.do_sample == theirs.generation.do_sample


def test_a_gguf_becomes_a_folder_and_a_gguf_again(model: str, tmp_path: Path) -> None:
    export(model, tmp_path / "q.gguf", format="gguf", dtype="q8_0")
    export(str(tmp_path / "q.gguf"), tmp_path / "hf", format="hf", dtype="f32")
    export(str(tmp_path / "hf"), tmp_path / "f.gguf", format="gguf", dtype="f32")
    a, b = (open_checkpoint(tmp_path / name).tensors for name in ("q.gguf", "f.gguf"))
    for name, tensor in a.items():
        np.testing.assert_array_equal(tensor.float32(), b[name].float32(), err_msg=name)
    asked = {"backend": "reference"}
    assert answer(tmp_path / "f.gguf", **asked) == answer(tmp_path / "q.gguf", **asked)


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({"format": "onnx"}, "'hf' or 'gguf'"),
        ({"format": "hf", "dtype": "q8_0"}, "cannot hold"),
        ({"format": "gguf", "dtype": "q4_0"}, "cannot hold"),
    ],
)
def test_what_cannot_be_written_is_told_first(
    model: str, how: dict[str, str], word: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=word):
        export(model, tmp_path / "x", **how)
    assert not (tmp_path / "x").exists()


# --- adapters ------------------------------------------------------------------------------------


def adapter_of(tmp: Path, name: str = "adapter", **how: Any) -> Path:
    return write_peft(tmp / name, config(), 8, lora_alpha=16, **how)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_an_adapter_changes_the_answer(model: str, backend: str, tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    with_it = answer(model, adapter=adapter, backend=backend)
    assert with_it != answer(model, backend=backend)
    llm = qwell.load(model, adapter=str(adapter), backend=backend)
    checkpoint = open_checkpoint(Path(model))
    assert llm.adapter_id == open_adapter(adapter, checkpoint.config).id
    assert qwell.load(model, backend=backend).adapter_id == ""


@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_merged_equals_unmerged(model: str, format: str, tmp_path: Path) -> None:
    """Float32 weights, the reference: 1e-4 of the largest logit; the program: its own bound."""
    adapter, out = adapter_of(tmp_path), tmp_path / ("m.gguf" if format == "gguf" else "m")
    export(model, out, format=format, dtype="f32", adapter=adapter)
    ids = [*range(60, 120)]
    for backend, bound in (("reference", 1e-4), ("native", 0.02)):
        merged, unmerged = (
            np.concatenate([rows.copy() for rows in llm.logits(ids)])
            for llm in (
                qwell.load(str(out), backend=backend),
                qwell.load(model, adapter=adapter, backend=backend),
            )
        )
        assert np.abs(merged - unmerged).max() <= bound * np.abs(unmerged).max()
    asked = {"backend": "reference"}
    assert answer(out, **asked) == answer(model, adapter=adapter, **asked)


def test_an_adapter_of_another_model_is_refused_before_loading(model: str, tmp_path: Path) -> None:
    other = write_peft(tmp_path / "other", config(hidden_size=128))
    with pytest.raises(CheckpointError, match="another model"):
        qwell.load(model, adapter=other)
    with pytest.raises(CheckpointError, match="another model"):
        export(model, tmp_path / "x", adapter=other)
    assert not (tmp_path / "x").exists()


def test_pages_of_different_adapters_never_meet() -> None:
    """The same tokens under another adapter are computed anew, even over one pool of pages."""
    ids, params = tuple(range(3, 200)), SamplingParams(max_tokens=1, temperature=0)
    tokenizer, model = make_tokenizer(), Rowwise()
    engines = [
        Engine(
            model,
            tokenizer,
            eos_ids=(EOS, END_OF_TEXT),
            max_context=256,
            num_pages=16,
            prefix_cache=True,
            adapter_id=name,
        )
        for name in ("", "one", "two")
    ]
    cached = []
    for engine in (*engines, engines[1]):
        engine.cache = engine._scheduler._cache = engines[0].cache
        engine._kv = engines[0]._kv
        reply = engine.submit(Request(prompt_ids=ids, params=params))
        while not reply.is_finished:
            engine.step()
        cached.append(reply.result().usage.cached_tokens)
    assert cached == [0, 0, 0, 192]


def test_one_answer_with_an_adapter(tmp_path: Path) -> None:
    """Random schedules on the program with an adapter: every reply is the lone one, bit for bit."""
    sizes = {"hidden_size": 96, "num_attention_heads": 6, "intermediate_size": 160}
    checkpoint, pack, loras = with_adapter(tmp_path, "Q5_0", 6, vocab_size=VOCAB_SIZE, **sizes)
    two, one = (open_native(checkpoint, pack, num_threads=n, adapters=loras) for n in (2, 1))
    limits = Limits(NUM_TOKENS, ("a", "\ufffd"), requests=6, reply=16)
    facts = Facts()
    for seed in range(12):
        hunt(draw_schedule(Random(seed), limits), make_tokenizer(), two, one, facts)
    assert facts.replies > 30 and facts.compared > 300, str(facts)
