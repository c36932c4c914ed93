"""Runs from start to end: they learn, they go on bit for bit, they refuse what they must."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qwell.errors import CheckpointError, DataError, NotFoundError, StorageError, UsageError
from qwell.train import loop, pretrain, sft
from qwell.train.files import alone
from qwell.train.logs import Share, read_log
from qwell.train.run_checkpoint import RunCheckpoints
from tests.cli import tiny
from tests.train.tiny_run import curve, prepare, pretrain_config, sft_config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, data, and one whole run to compare with."""
    folder = tmp_path_factory.mktemp("train")
    prepare(folder)
    pretrain.main(pretrain_config(folder, out=str(folder / "whole")))
    return folder


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, how: object) -> None:
    """Ends the next run during its step `step`."""
    real = loop.Loop.step

    def broken(self: loop.Loop) -> None:
        real(self)
        if self.position.step == step:
            if isinstance(how, Exception):
                raise how
            os.kill(os.getpid(), int(how))  # type: ignore[call-overload]

    monkeypatch.setattr(loop.Loop, "step", broken)


def test_it_learns_and_leaves_a_model(place: Path) -> None:
    found = curve(place / "whole")
    assert found[11][1] < found[0][1] - 1.5
    assert (place / "whole/model/model.safetensors").exists()
    assert (place / "whole/loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((place / "whole/config.json").read_text())["steps"] == 12


def test_two_runs_are_bit_equal(place: Path) -> None:
    pretrain.main(pretrain_config(place, out=str(place / "again")))
    assert curve(place / "again") == curve(place / "whole")


@pytest.mark.parametrize("step", [3, 4, 6, 11])
def test_a_broken_run_goes_on_bit_for_bit(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    config = pretrain_config(place, out=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        stop_after(patch, step, RuntimeError("pulled the plug"))
        with pytest.raises(RuntimeError, match="plug"):
            pretrain.main(config)
    torch.manual_seed(999)  # what the process did meanwhile does not matter
    result = pretrain.main(config)
    assert result.is_done
    assert curve(config.out) == curve(place / "whole")
    weights = "model/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (place / "whole" / weights).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    config = pretrain_config(place, out=str(tmp_path / "run"))
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_after(patch, 5, number)
        result = pretrain.main(config)
    assert (result.is_done, result.step) == (False, 5)
    assert signal.getsignal(number) is before
    assert pretrain.main(config).is_done
    assert curve(config.out) == curve(place / "whole")


def test_a_run_that_is_done_stays_as_it_is(place: Path) -> None:
    before = curve(place / "whole")
    assert pretrain.main(pretrain_config(place, out=str(place / "whole"))).step == 12
    assert curve(place / "whole") == before


def test_a_corrupt_checkpoint_falls_back_and_says_so(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = pretrain_config(place, out=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        stop_after(patch, 9, RuntimeError("plug"))
        with pytest.raises(RuntimeError):
            pretrain.main(config)
    newest = tmp_path / "run/checkpoints/step-00000008/optimizer.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    capsys.readouterr()
    pretrain.main(config)
    err = capsys.readouterr().err
    assert "corrupt" in err and "going on from step 4" in err
    assert curve(config.out) == curve(place / "whole")


def test_all_corrupt_is_a_refusal(place: Path, tmp_path: Path) -> None:
    config = pretrain_config(place, out=str(tmp_path / "run"), steps=4)
    pretrain.main(config)
    for state in (tmp_path / "run/checkpoints").glob("*/state.json"):
        state.write_text("{}")
    with pytest.raises(CheckpointError, match="delete the folder"):
        pretrain.main(config)


def test_another_config_is_refused(place: Path) -> None:
    config = pretrain_config(place, out=str(place / "whole"))
    with pytest.raises(UsageError, match=r"started with lr 0\.003"):
        pretrain.main(replace(config, lr=1e-3))
    pretrain.main(replace(config, keep_last=3, eval_every=2))


def test_other_data_is_refused(place: Path, tmp_path: Path) -> None:
    config = pretrain_config(place, out=str(tmp_path / "run"), data=(str(tmp_path / "d.jsonl"),))
    (tmp_path / "d.jsonl").write_text((place / "train.jsonl").read_text())
    pretrain.main(config)
    lines = (tmp_path / "d.jsonl").read_text().splitlines()
    (tmp_path / "d.jsonl").write_text("\n".join(lines[:-7]) + "\n")
    with pytest.raises(DataError):
        pretrain.main(config)


@pytest.mark.parametrize("name", ["data", "valid"])
def test_edited_data_is_refused_and_touched_data_is_not(
    place: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "d.jsonl"
    file.write_bytes((place / f"{'train' if name == 'data' else name}.jsonl").read_bytes())
    over = {"out": str(tmp_path / "run"), "steps": 4, name: (str(file),)}
    config = pretrain_config(place, **over)
    pretrain.main(config)
    was = file.read_bytes()
    file.unlink()
    file.write_bytes(was)
    os.utime(file, (1, 1))
    assert pretrain.main(config).is_done
    before = file.stat()
    file.write_bytes(was[:-6] + bytes([was[-6] ^ 1]) + was[-5:])  # a digit is another one
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match=f"--{name} has changed .* another --out"):
        pretrain.main(config)
    file.write_bytes(was)
    assert pretrain.main(config).is_done


def test_a_folder_that_cannot_be_written(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--out"):
        pretrain.main(pretrain_config(place, out=str(tmp_path / "file/run")))


def test_two_runs_in_one_folder_are_refused(place: Path, tmp_path: Path) -> None:
    config = pretrain_config(place, out=str(tmp_path / "run"), steps=2)
    with alone(tmp_path / "run"), pytest.raises(StorageError, match="another run is at work"):
        pretrain.main(config)
    assert not (tmp_path / "run/checkpoints").exists()
    assert pretrain.main(config).is_done


@pytest.mark.parametrize("name", ["model", "model.old", "adapter"])
def test_what_the_run_did_not_write_is_not_replaced(place: Path, tmp_path: Path, name: str) -> None:
    config = pretrain_config(place, out=str(tmp_path), steps=2)
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there but no checkpoint"):
        pretrain.main(config)
    (tmp_path / name / "thesis.txt").unlink()
    assert pretrain.main(config).is_done
    assert pretrain.main(config).is_done, "its own model is replaced"


def test_a_shape_without_weights_is_told_from_a_model(place: Path, tmp_path: Path) -> None:
    """New weights are never taken for those that were to be gone on from."""
    shape = (place / "tiny/config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(shape)
    config = pretrain_config(place, out=str(tmp_path / "run"), model=str(tmp_path))
    with pytest.raises(UsageError, match=r"give --model .*/config\.json"):
        pretrain.main(config)
    (tmp_path / "model").mkdir()  # the folder of a run: its config.json is no shape
    (tmp_path / "model/config.json").write_bytes(shape)
    with pytest.raises(NotFoundError, match=r"holds a run of training: give .*/model"):
        pretrain.main(config)


def test_lora_on_new_weights_is_refused(place: Path, tmp_path: Path) -> None:
    """They would all be learnt, and the adapter that is left would be none."""
    config = pretrain_config(
        place,
        out=str(tmp_path / "run"),
        model=str(place / "tiny/config.json"),
        tokenizer=str(place / "tiny"),
        lora_rank=4,
    )
    with pytest.raises(UsageError, match="leave out --lora-rank"):
        pretrain.main(config)


def test_sft_learns(place: Path) -> None:
    result = sft.main(sft_config(place, steps=30, lr=1e-2))
    found = curve(result.out)
    assert found[29][1] < 0.5 * found[0][1]


def test_lora_trains_adapters_alone(place: Path) -> None:
    config = sft_config(place, lora_rank=4, out=str(place / "lora"))
    result = sft.main(config)
    assert (result.out / "adapter/adapter_config.json").exists()
    assert not (result.out / "model").exists()
    newest = RunCheckpoints(result.out / "checkpoints").newest(print)
    assert newest and all("lora" in name for name in newest.groups["model"])


def test_lora_on_another_base_is_refused(place: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(place / "tiny", tmp_path / "tiny")
    config = sft_config(place, lora_rank=4, out=str(tmp_path / "l"), model=str(tmp_path / "tiny"))
    sft.main(replace(config, steps=12))
    weights = tmp_path / "tiny/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"weights of .* is not what"):
        sft.main(config)


def test_tensorboard_holds_the_curve(place: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = pretrain_config(place, out=str(tmp_path / "run"), tensorboard=True)
    pretrain.main(config)
    read = EventAccumulator(str(tmp_path / "run/tensorboard"))
    read.Reload()
    shown = [(e.step, e.value) for e in read.Scalars("step/loss")]
    exact = [(s, loss) for s, loss, *_ in curve(config.out)[:12]]
    assert [s for s, _ in shown] == [s for s, _ in exact]
    assert [v for _, v in shown] == pytest.approx([v for _, v in exact], rel=1e-6)


@pytest.mark.parametrize("kind", ["int8", "int4", "file"])
def test_qlora_learns_on_packed_weights(place: Path, tmp_path: Path, kind: str) -> None:
    config = sft_config(place, lora_rank=4, qlora=kind, out=str(tmp_path / "q"), dtype="bf16")
    found = sft.main(config)
    losses = [x[1] for x in curve(found.out)[:12]]
    assert losses[-1] < losses[0] and (found.out / "adapter/adapter_model.safetensors").exists()
    note = next(event["text"] for event in read_log(found.out) if event["kind"] == "note")
    assert f"packed as {kind}" in note
    assert ("floats as int8" in note) == (kind == "file"), "the file has no integers to keep"


def test_another_template_is_refused(place: Path, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text(tiny.TEMPLATE)
    config = sft_config(place, template=str(template), out=str(tmp_path / "run"), steps=4)
    sft.main(config)
    template.write_text(tiny.TEMPLATE.replace("\n", " "))
    with pytest.raises(CheckpointError, match="template"):
        sft.main(config)


def test_a_tuned_model_names_the_end_of_a_turn_first(place: Path, tmp_path: Path) -> None:
    sft.main(sft_config(place, out=str(tmp_path / "run"), steps=2))
    raw = json.loads((tmp_path / "run/model/config.json").read_text())
    told = json.loads((tmp_path / "run/model/generation_config.json").read_text())
    assert raw["eos_token_id"] == 258 and told["eos_token_id"] == [258, 256]


def test_a_share_is_told_every_few_seconds_by_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    share = Share("hashing", every_s=0)
    share(1, 4)
    assert capsys.readouterr().err == "hashing: 25 %\n"
    Share("hashing", every_s=60)(1, 4)
    monkeypatch.setenv("RANK", "1")
    Share("hashing", every_s=0)(1, 4)
    assert capsys.readouterr().err == ""
