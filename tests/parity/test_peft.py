"""An adapter run unmerged is PEFT's: the same float32 model, the same adapter, foreign code.

Bounds: the reference within 1e-4 of every logit (float32 sums in another order); the program within
2 % of the largest, which is what bf16 keys and values cost it without an adapter as well. Greedy
text is equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qwell
from qwell.checkpoint import open_adapter, write_adapter
from qwell.config import ModelConfig
from tests.checkpoint.adapters import ALL
from tests.checkpoint.make import random_tensors, write_folder
from tests.cli.tiny import config, write_tokenizer
from tests.model.tiny import FloatTensor

# peft asks transformers by a name that transformers has replaced
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

RAW = config(hidden_size=128, intermediate_size=192)
IDS = [*range(40, 100)]
REPLY = 12
ADAPTERS: dict[str, dict[str, Any]] = {
    "rank 1": {"r": 1, "lora_alpha": 1},
    "rank 3, rslora": {"r": 3, "lora_alpha": 5, "use_rslora": True},
    "rank 16": {"r": 16, "lora_alpha": 32},
    "q and v": {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"down_proj": 9},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 3},
    },
    "one layer": {"r": 4, "lora_alpha": 8, "layers_to_transform": [1]},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peft") / "model"
    write_folder(folder, RAW, random_tensors(RAW, scale=0.12), dtype="f32")
    write_tokenizer(folder)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWELL_HOME", str(tmp_path_factory.getbasetemp() / "peft-home"))


def hf_model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def peft_model(folder: Path, out: Path, **over: Any) -> Any:
    """transformers' model with a random adapter, which is saved to `out`."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(len(str(over)))
    facts = {"target_modules": list(ALL), "init_lora_weights": False} | over
    made = get_peft_model(hf_model(folder), LoraConfig(**facts)).eval()
    made.save_pretrained(out)
    return made


def their_logits(model: Any, ids: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()


def their_greedy(model: Any, ids: list[int]) -> list[int]:
    known = list(ids)
    for _ in range(REPLY):
        known.append(int(their_logits(model, known)[-1].argmax()))
    return known[len(ids) :]


def our_logits(llm: qwell.LLM) -> Any:
    return np.concatenate([rows.copy() for rows in llm.logits(IDS)])


@pytest.mark.parametrize("over", ADAPTERS.values(), ids=ADAPTERS.keys())
def test_unmerged_is_pefts(over: dict[str, Any], model: Path, tmp_path: Path) -> None:
    theirs = peft_model(model, tmp_path / "a", **over)
    want, text = their_logits(theirs, IDS), their_greedy(theirs, IDS)
    with theirs.disable_adapter():
        bare = their_logits(theirs, IDS)
    assert np.abs(want - bare).max() > 0.1 * np.abs(bare).max()
    for backend, bound in (("reference", 1e-4), ("native", 0.02 * np.abs(want).max())):
        llm = qwell.load(str(model), adapter=tmp_path / "a", backend=backend)
        assert np.abs(our_logits(llm) - want).max() <= bound, backend
        done = llm.generate(IDS, temperature=0.0, max_tokens=REPLY, ignore_eos=True)
        assert list(done.token_ids) == text, backend


def test_peft_opens_what_we_write(model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    rng = np.random.default_rng(0)
    shapes = {
        "model.layers.0.self_attn.k_proj": (64, 128),
        "model.layers.1.mlp.down_proj": (128, 192),
    }
    pairs = {
        module: (
            FloatTensor("a", rng.standard_normal((5, width)).astype("f4") * np.float32(0.1)),
            FloatTensor("b", rng.standard_normal((out, 5)).astype("f4") * np.float32(0.1)),
        )
        for module, (out, width) in shapes.items()
    }
    write_adapter(tmp_path / "a", pairs, rank=5, alpha=7, rslora=True, base_model=str(model))
    adapter = open_adapter(tmp_path / "a", ModelConfig.from_dict(RAW))
    assert list(adapter.loras) == list(shapes)
    base = hf_model(model)
    bare = their_logits(base, IDS)
    theirs = PeftModel.from_pretrained(base, tmp_path / "a").eval()
    want = their_logits(theirs, IDS)
    ours = our_logits(qwell.load(str(model), adapter=tmp_path / "a", backend="reference"))
    assert np.abs(want - bare).max() > 0.01
    assert np.abs(ours - want).max() <= 1e-4
