"""What a dry run says against what runs do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from qwell.config import ModelConfig
from qwell.data.rows import Rows
from qwell.data.survey import Survey
from qwell.errors import MemoryBudgetError
from qwell.train.config import SftConfig
from qwell.train.cost import Cost
from qwell.train.estimate import check_fits, estimate, memory_of, trained_parameters
from qwell.train.lora import LoraConfig, add_lora
from qwell.train.weights import init_decoder
from tests.model.tiny import make_config

SMALL = make_config()


def medium(**over: int) -> ModelConfig:
    values = {"vocab_size": 16_000, "hidden_size": 512, "intermediate_size": 1408}
    values |= {"num_hidden_layers": 6, "num_attention_heads": 8, "head_dim": 64}
    return make_config(**(values | over))


def test_flops_of_a_model_by_hand() -> None:
    """One layer, one document: every product counted twice, backward twice the forward."""
    model = make_config(num_hidden_layers=1)
    rows = Rows(np.zeros(6, np.int32), np.array([0, 6], np.int32), np.arange(6) >= 2)
    D, F, q, kv, V = 32, 48, 32, 16, 97
    matrices = 6 * (D * q + 2 * D * kv + q * D + 3 * D * F)
    scores = 2 * q * 36 / 2  # causal: half of 6 x 6, queries by keys and weights by values
    assert Cost(model).flops(rows) == 6 * (matrices + scores) + 6 * 4 * D * V


def test_lora_saves_a_third_of_the_matrices() -> None:
    rows = Rows(np.zeros(6, np.int32), np.array([0, 6], np.int32), np.arange(6) >= 2)
    whole, lora = Cost(SMALL).flops(rows), Cost(SMALL, trains_base=False).flops(rows)
    assert 0.66 < lora / whole < 0.70


@pytest.mark.parametrize("embeddings", [False, True])
def test_trained_parameters_are_those_of_the_decoder(embeddings: bool) -> None:
    config = SftConfig(lora_rank=4, lora_embeddings=embeddings)
    decoder = init_decoder(SMALL, seed=0)
    whole = sum(p.numel() for p in decoder.parameters())
    assert trained_parameters(SftConfig(), SMALL) == whole == SMALL.num_parameters
    add_lora(decoder, LoraConfig(rank=4, train_embeddings=embeddings))
    learning = sum(p.numel() for p in decoder.parameters() if p.requires_grad)
    assert trained_parameters(config, SMALL) == learning


def test_what_saves_memory_does() -> None:
    base = SftConfig(context=1024)
    total = memory_of(base, medium()).total
    for change in (
        {"recompute": True},
        {"optimizer": "8bit"},
        {"lora_rank": 8},
        {"context": 256},
    ):
        assert memory_of(replace(base, **change), medium()).total < total  # type: ignore[arg-type]


def test_a_run_without_room_is_told_what_helps() -> None:
    memory = memory_of(SftConfig(), medium())
    check_fits(SftConfig(), memory, int(memory.total) + 1)
    with pytest.raises(MemoryBudgetError, match=r"--recompute or a smaller --context"):
        check_fits(SftConfig(), memory, int(memory.total) - 1)


def test_counts_of_a_run() -> None:
    counted = Survey(
        documents=100,
        tokens=6000,
        targets=1500,
        rows=50,
        overlong=0,
        longest=90,
        longest_place="x",
        is_estimate=False,
    )
    config = SftConfig(context=128, micro_batches=5, epochs=2.0, dtype="float32")
    found = estimate(config, SMALL, counted)
    assert (found.steps, found.tokens, found.targets) == (20, 12_000, 3000)
    assert found.step_seconds > 0 and "steps       20" in found.table()


PEAK = """
import sys, numpy as np
from dataclasses import replace
from qwell.data.rows import Rows
from qwell.train.config import SftConfig
from qwell.train.objectives import NextToken
from qwell.train.stage import DTYPES, adamw, adapt
from qwell.train.weights import init_decoder
from tests.train.test_estimate import medium
import torch
torch.set_num_threads(1)
config = SftConfig(context=2048, **eval(sys.argv[1]))
decoder = init_decoder(medium(), seed=0, dtype=DTYPES[config.dtype], recompute=config.recompute)
adapt(config, decoder)
optimizer = adamw(config)(decoder)
rows = Rows(np.zeros(2048, np.int32), np.array([0, 2048], np.int32), np.arange(2048) > 0)
for _ in range(2):
    NextToken().loss(decoder, rows, 1e-3).backward()
    optimizer.step(1e-4)
    optimizer.zero_grad()
# VmHWM: ru_maxrss would begin with what the process that started this one has had.
status = open("/proc/self/status").read().split()
print(1024 * int(status[status.index("VmHWM:") + 1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"recompute": True}, {"lora_rank": 16}])
def test_memory_is_that_of_a_real_step(change: dict[str, object]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, repr(change)], capture_output=True, text=True, check=True
    )
    told = memory_of(SftConfig(context=2048, **change), medium()).total  # type: ignore[arg-type]
    assert 0.75 < told / int(done.stdout) < 1.35, (told, int(done.stdout))
