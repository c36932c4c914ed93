"""Exported models in other people's programs: the greedy text is ours.

transformers on tiny models here, on the real 0.5B in the slow tests; llama.cpp (in an environment
of its own, built once by benchmarks/peers/environments.py) in the slow tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qwell
from qwell.checkpoint import open_adapter, open_checkpoint
from qwell.engine.export import export
from qwell.engine.load import load
from qwell.model.reference import ReferenceModel
from qwell.model.weights import build_weights
from tests.checkpoint.adapters import write_peft
from tests.cli.tiny import config, write_model
from tests.parity.greedy import greedy
from tests.parity.test_peft import REPLY, their_greedy, their_logits

ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("QWELL_PEERS") or ROOT / "build" / "peers").absolute()
PROMPTS = [
    "Write a Python function that returns the n-th Fibonacci number.",
    "What does `git rebase` do?",
    "def quicksort(xs):",
    "List three prime numbers.",
]
TOKENS = 32


def transformers_model(folder: Path, dtype: str = "float32") -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    found = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return found.eval()


@pytest.mark.parametrize("with_adapter", [False, True], ids=["plain", "merged"])
@pytest.mark.parametrize("over", [{}, {"tie_word_embeddings": True}, {"head_dim": 32}])
def test_transformers_opens_a_folder(
    over: dict[str, Any],
    with_adapter: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QWELL_HOME", str(tmp_path / "home"))
    model, ids = write_model(tmp_path / "m", **over), [*range(40, 90)]
    adapter = write_peft(tmp_path / "a", config(**over), 4) if with_adapter else None
    export(str(model), tmp_path / "x", dtype="f32", adapter=adapter)
    theirs = transformers_model(tmp_path / "x")
    assert type(theirs).__name__ == "Qwen2ForCausalLM"
    llm = qwell.load(str(model), adapter=adapter, backend="reference")
    ours = np.concatenate([rows.copy() for rows in llm.logits(ids)])
    assert np.abs(their_logits(theirs, ids) - ours).max() <= 1e-4 * max(1, np.abs(ours).max())
    done = llm.generate(ids, temperature=0.0, max_tokens=REPLY, ignore_eos=True)
    assert their_greedy(theirs, ids) == list(done.token_ids)


# --- the real 0.5B -------------------------------------------------------------------------------


Ids = tuple[tuple[int, ...], ...]


def prompt_ids(llm: qwell.LLM) -> Ids:
    from qwell.text import encode_chat

    assert llm.template is not None
    chats = [[{"role": "user", "content": text}] for text in PROMPTS]
    return tuple(tuple(encode_chat(llm.tokenizer, llm.template, chat)) for chat in chats)


@cache
def truth(model: str, ids: Ids) -> list[Any]:
    """Greedy replies of the float32 reference over the file, with the margin of each token."""
    checkpoint = open_checkpoint(Path(model))
    weights = build_weights(checkpoint.config, checkpoint.tensors)
    return greedy(ReferenceModel(weights), ids, TOKENS, checkpoint.generation.eos_token_ids)


def compare(replies: list[Any], theirs: Sequence[Sequence[int]], clear: float) -> int:
    """Replies that are equal. A token that differs is a near tie of the reference, or it fails."""
    equal = 0
    for reply, other in zip(replies, theirs, strict=True):
        pairs = list(zip(reply.tokens, other))
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        equal += at is None  # as far as the shorter goes: an end token ends both
        if at is not None:
            assert reply.margins[at] < clear, (at, reply.margins[at])
    return equal


@pytest.mark.slow
@pytest.mark.weights
def test_transformers_writes_our_text(official_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    """The Q4_K_M file as a float32 folder: every number is that of the file, so the text is."""
    source = str(official_gguf("0.5b"))
    export(source, tmp_path / "x", dtype="f32")
    llm = load(source, ctx=512)
    ids = prompt_ids(llm)
    replies = truth(source, ids)
    import torch

    theirs, found = transformers_model(tmp_path / "x"), []
    for row in ids:
        with torch.no_grad():
            out = theirs.generate(
                torch.tensor([row]), max_new_tokens=TOKENS, do_sample=False, repetition_penalty=1.0
            )
        found.append(out[0, len(row) :].tolist())
    assert compare(replies, found, clear=0.001) == len(ids)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "x")
    for text, row in zip(PROMPTS, ids):
        chat = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert tokenizer(rendered)["input_ids"] == list(row)


LLAMA = """
import json, sys
import llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=1024, n_threads=2, verbose=False)
asked, found = json.load(sys.stdin), []
for ids in asked["ids"]:
    model.reset()
    reply = []
    for token in model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        reply.append(token)
        if len(reply) == asked["tokens"] or token == model.token_eos():
            break
    found.append(reply)
text = model.tokenize(asked["text"].encode(), add_bos=False, special=True)
print(json.dumps({"replies": found, "text": text}))
"""


def llama(path: Path, ids: Sequence[Sequence[int]], text: str) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
    try:
        from environments import python_of
    finally:
        sys.path.pop(0)
    asked = json.dumps({"ids": [list(row) for row in ids], "tokens": TOKENS, "text": text})
    command = [python_of("llama", PEERS), "-c", LLAMA, str(path)]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("dtype", ["bf16", "q8_0"])
def test_llama_cpp_writes_our_text(
    dtype: str,
    official_gguf: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """llama.cpp against the program, both on the export. Each rounds keys, values and activations
    in its own way: where they differ, the program's two best tokens are near each other."""
    source, out = official_gguf("0.5b"), tmp_path / "x.gguf"
    monkeypatch.setenv("QWELL_HOME", str(tmp_path / "home"))  # its pack goes with it
    export(str(source), out, format="gguf", dtype=dtype)
    llm = load(str(out), ctx=512)
    ids, text = prompt_ids(llm), "def f(x):\n  return 12345<|im_end|>\n<tool_call>"
    found = llama(out, ids, text)
    assert found["text"] == llm.tokenizer.encode(text, allow_special=True)
    ours = greedy(llm.backend, ids, TOKENS, llm.generation.eos_token_ids)
    equal = compare(ours, found["replies"], clear=0.3)
    print(f"{dtype}: llama.cpp writes our text in {equal} of {len(ids)}")
    # Beside Q8_0 weights both round activations to 8 bits, each its own groups: more near ties.
    assert equal >= {"bf16": 3, "q8_0": 1}[dtype]


@pytest.mark.slow
@pytest.mark.weights
def test_an_adapter_on_the_real_model(official_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    """Unmerged over the Q4_K_M base: the program against the float32 reference with the same
    adapter, by KL; merged into float32 weights it is the same model."""
    from qwell.eval.parity import verify

    source = official_gguf("0.5b")
    checkpoint = open_checkpoint(source)
    raw = checkpoint.config.to_dict()
    adapter = write_peft(tmp_path / "a", raw, 16, lora_alpha=4)
    report = verify(str(source), windows=2, window_tokens=256, adapter=adapter)
    print(report.table())
    # A random adapter makes a strange model: a few sharp positions carry most of the mean.
    for path, found in report.paths.items():
        assert found.kl_median < 0.001 and found.kl_mean < 0.005 and found.top1 > 0.96, path
    loras = open_adapter(adapter, checkpoint.config).loras
    assert len(loras) == 7 * checkpoint.config.num_layers
    export(str(source), tmp_path / "m.gguf", format="gguf", dtype="f32", adapter=adapter)
    whole = open_checkpoint(tmp_path / "m.gguf")
    ids = prompt_ids(load(str(source), ctx=512))[:2]
    merged = greedy(ReferenceModel(build_weights(whole.config, whole.tensors)), ids, 24, ())
    unmerged = ReferenceModel(build_weights(checkpoint.config, checkpoint.tensors, loras))
    assert [r.tokens for r in greedy(unmerged, ids, 24, ())] == [r.tokens for r in merged]
