"""FSDP2 over two processes on gloo: the losses of one process, and checkpoints that interchange."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from qwell.train import pretrain, sft
from qwell.train.config import TrainConfig
from tests.train.tiny_run import curve, prepare, pretrain_config, sft_config

BOUND = 2e-5
"""Largest relative difference of a loss in float32: sums over two processes round otherwise."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    prepare(folder)
    return folder


def torchrun(stage: str, config: TrainConfig, processes: int = 2) -> None:
    """The stage under torchrun, as a user would."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            *launcher,
            "-m",
            "tests.train.two",
            stage,
            json.dumps(config.to_dict()),
        ],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def difference(a: Path | str, b: Path | str) -> float:
    """Largest relative difference of losses and gradient norms of two runs."""
    one, two = curve(a), curve(b)
    assert [x[0] for x in one] == [x[0] for x in two]
    assert [x[4:] for x in one if len(x) > 2] == [x[4:] for x in two if len(x) > 2]
    pairs = [(x[1], y[1]) for x, y in zip(one, two, strict=True)]
    pairs += [(x[2], y[2]) for x, y in zip(one, two, strict=True) if len(x) > 2]
    return max(abs(x - y) / abs(x) for x, y in pairs)


def weights(run: Path | str, name: str = "model/model.safetensors") -> Mapping[str, Any]:
    return load_file(Path(run) / name)


def apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """Largest relative distance of a tensor."""
    assert a.keys() == b.keys()
    return max(float(np.linalg.norm(a[k] - b[k]) / (np.linalg.norm(a[k]) + 1e-12)) for k in a)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(place: Path) -> None:
    one = pretrain_config(place, out=str(place / "one"))
    two = pretrain_config(place, out=str(place / "two"))
    pretrain.main(one)
    torchrun("pretrain", two)
    assert difference(one.out, two.out) < BOUND
    assert apart(weights(one.out), weights(two.out)) < 1e-3


@pytest.mark.slow
def test_checkpoints_interchange(place: Path) -> None:
    """Five steps with one number of processes, the rest with the other."""
    whole = pretrain_config(place, out=str(place / "alone"))
    pretrain.main(whole)
    first = pretrain_config(place, out=str(place / "one-two"), keep_last=9)
    _interrupted(first)
    torchrun("pretrain", first)
    assert difference(whole.out, first.out) < BOUND
    second = pretrain_config(place, out=str(place / "two-one"), keep_last=9)
    torchrun("pretrain", second)
    _forget_after(Path(second.out), 8)
    pretrain.main(second)
    assert difference(whole.out, second.out) < BOUND


@pytest.mark.slow
def test_bf16_and_its_master_are_saved_by_two_and_read_by_one(place: Path) -> None:
    """The defaults of every recipe. gloo gathers no int16, which the master's lower half is."""
    one = pretrain_config(place, dtype="bf16", out=str(place / "half-one"))
    two = pretrain_config(place, dtype="bf16", out=str(place / "half-two"), keep_last=9)
    pretrain.main(one)
    torchrun("pretrain", two)
    assert difference(one.out, two.out) < 0.1
    halves = weights(two.out, "checkpoints/step-00000004/optimizer.safetensors")
    low = [value for name, value in halves.items() if name.endswith(".low")]
    assert all(value.dtype == np.int16 for value in low) and any(value.any() for value in low)
    before = curve(two.out)
    _forget_after(Path(two.out), 8)
    pretrain.main(two)
    assert abs(curve(two.out)[8][1] / before[8][1] - 1) < 1e-3, "the step after the checkpoint"


@pytest.mark.slow
def test_lora_on_two_processes(place: Path) -> None:
    one = sft_config(place, lora_rank=4, out=str(place / "lora-one"))
    two = sft_config(place, lora_rank=4, out=str(place / "lora-two"))
    sft.main(one)
    torchrun("sft", two)
    assert difference(one.out, two.out) < BOUND
    name = "adapter/adapter_model.safetensors"
    assert apart(weights(one.out, name), weights(two.out, name)) < 1e-3


@pytest.mark.slow
def test_one_process_of_torchrun(place: Path) -> None:
    config = pretrain_config(place, out=str(place / "lone"))
    torchrun("pretrain", config, processes=1)
    pretrain.main(pretrain_config(place, out=str(place / "plain")))
    assert difference(config.out, place / "plain") < BOUND


def _interrupted(config: TrainConfig) -> None:
    """Runs `config` in this process and takes back all but its first checkpoint."""
    pretrain.main(config)  # type: ignore[arg-type]
    _forget_after(Path(config.out), 4)


def _forget_after(run: Path, step: int) -> None:
    import shutil

    for path in (run / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    shutil.rmtree(run / "model")
