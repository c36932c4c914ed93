"""`qwell train` as a user meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwell.cli.main import main
from qwell.text.template import ChatTemplate
from tests.cli.tiny import Run, in_process
from tests.train.tiny_run import prepare, write_chats, write_texts

FLAGS = "--context 128 --micro-batches 2 --steps 6 --lr 3e-3 --warmup-steps 2 --dtype float32"
QUICK = [*FLAGS.split(), "--threads", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-train")
    prepare(folder)
    write_chats(folder / "chats.jsonl", 80)
    return folder


@pytest.fixture
def qwell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return in_process(capsys, monkeypatch)


def test_help_names_every_subcommand(qwell: Run) -> None:
    out = qwell("train", "--help").out
    for name in ("pretrain", "sft", "inspect", "doctor", "tour", "tokenizer", "clean"):
        assert f"  {name} " in out
        told = qwell("train", name, "--help")
        assert told.code == 0 and told.out.startswith(f"usage: qwell train {name}")


def test_flags_are_the_fields(qwell: Run) -> None:
    out = qwell("train", "sft", "--help").out
    assert "--lora-rank N" in out and "--overlong {refuse,drop}" in out
    assert "rank of LoRA adapters" in out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("pretrane", "did you mean pretrain?"),
        ("sft --lora-rnk 4", "did you mean --lora-rank?"),
        ("sft --schedule step", "invalid choice"),
        ("sft --lr fast", "'fast' is no number"),
        ("sft --recipe pretrain-0.5b", "is a recipe of qwell train pretrain"),
        ("sft --lr -1 --data x", "lr is -1.0"),
        ("sft", "give --data"),
        ("doctor", "name the stage"),
        ("doctor sft --model m", "give --data"),
        ("pretrain --init-std -1", "init_std is -1"),
        ("sft --lora-rank 4 --lora-targets q", "lora_targets"),
        ("pretrain --threads 1025", "threads must be a number from 1 to 1024"),
        ("sft --threads -1", "threads must be a number from 1 to 1024"),
        ("doctor sft --model m --threads 1025", "threads must be a number from 1 to 1024"),
        ("tour --threads 1025", "threads must be a number from 1 to 1024"),
    ],
)
def test_wrong_lines(qwell: Run, line: str, told: str) -> None:
    found = qwell("train", *line.split())
    assert found.code == 2 and told in found.err and len(found.err.splitlines()) == 1


def test_recipes_are_listed(qwell: Run) -> None:
    for command in (["sft"], ["doctor", "sft"]):
        assert "sft-7b" in qwell("train", *command, "--recipe", "list").out.split()


def test_a_run_and_its_report(qwell: Run, place: Path) -> None:
    data = ["--model", place / "tiny", "--data", place / "chats.jsonl", "--out", place / "out"]
    found = qwell("train", "sft", *data, *QUICK)
    assert found.code == 0, found.err
    assert found.out.strip() == str(place / "out/model")
    assert "step 6/6" in found.err
    assert found.err.endswith(f"try it: qwell chat {place / 'out/model'}\n")
    assert qwell("run", place / "out/model", "1+1", "-n", "3").code == 0


def test_the_line_after_a_run_can_be_run(qwell: Run, place: Path) -> None:
    """For an adapter it names the model, whose path would have to be found again."""
    data = ["--model", place / "tiny", "--data", place / "chats.jsonl", "--out", place / "beside"]
    found = qwell("train", "sft", *data, *QUICK, "--lora-rank", "4")
    line = found.err.splitlines()[-1].removeprefix("try it: qwell ").split()
    assert line == ["chat", str(place / "tiny"), "--adapter", str(place / "beside/adapter")]
    assert qwell("run", *line[1:], "1+1", "-n", "3").code == 0


def test_dry_run(qwell: Run, place: Path) -> None:
    data = ["--model", place / "tiny", "--data", place / "chats.jsonl", "--out", place / "dry"]
    out = qwell("train", "sft", *data, *QUICK, "--dry-run").out
    for word in ("published", "steps       6", "tokens", "FLOPs", "memory", "time"):
        assert word in out
    assert not (place / "dry").exists()


def test_what_cannot_fit_is_refused(qwell: Run) -> None:
    found = qwell("train", "pretrain", "--recipe", "pretrain-72b", "--dry-run")
    assert found.code == 10 and "GB are available" in found.err and "torchrun" in found.err


def test_the_doctor_stops_a_dead_rate(qwell: Run, place: Path) -> None:
    data = ["--model", place / "tiny", "--data", place / "chats.jsonl", "--out", place / "sick"]
    found = qwell("train", "sft", *data, *QUICK, "--lr", "1e-9", "--lr-final", "0")
    assert found.code == 12 and "dead learning rate" in found.err
    assert not (place / "sick").exists()
    assert qwell("train", "sft", *data, *QUICK, "--lr", "1e-9", "--lr-final", "0",
                 "--ignore-doctor").code == 0  # fmt: skip


def test_the_doctor_finds_what_is_wrong_with_rows(qwell: Run, place: Path) -> None:
    data = ["--model", place / "tiny", "--data", place / "chats.jsonl"]
    same = qwell("train", "doctor", "sft", *data, "--valid", place / "chats.jsonl", *QUICK)
    assert same.code == 12 and "test question in training" in same.out
    long = qwell("train", "doctor", "sft", *data, "--context", "16", "--steps", "6")
    assert long.code == 12 and "over-long" in long.out and "and 79 more" in long.out
    assert "--ignore-doctor or not" in long.err


def test_the_dry_run_tells_what_would_be_refused(qwell: Run, place: Path) -> None:
    rows = [json.loads(line) for line in (place / "chats.jsonl").read_text().splitlines()[:5]]
    rows[3]["messages"][0]["content"] = "x" * 300
    (place / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["--model", place / "tiny", "--data", place / "long.jsonl", *QUICK, "--dry-run"]
    assert "refuses them unless you give --overlong drop" in qwell("train", "sft", *data).out
    assert "refuses" not in qwell("train", "sft", *data, "--overlong", "drop").out
    short = qwell("train", "sft", *data, "--overlong", "drop", "--warmup-steps", "9").out
    assert "error: dead learning rate" in short and "take --warmup-steps 1" in short


@pytest.mark.parametrize(
    ("change", "name", "shown"),
    [
        (("<|im_start|>", "<|im_start|> "), "template drift", "<|im_start|> user"),
        (("<|im_end|>", ""), "no end token", "assistant"),
    ],
)
def test_a_template_that_would_teach_the_wrong_text_is_refused(
    qwell: Run, place: Path, change: tuple[str, str], name: str, shown: str
) -> None:
    """One that differs from the model's own, and one whose turns have no end to learn: the run
    does not start, and the doctor shows the row."""
    template = place / f"{name}.jinja"
    template.write_text(ChatTemplate.chatml().source.replace(*change))
    line = ["--model", place / "tiny", "--data", place / "chats.jsonl", "--template", template]
    run = ["--out", place / "drift", *QUICK]
    found = qwell("train", "sft", *line, *run)
    assert found.code == 12 and not (place / "drift").exists()
    assert name in found.err and shown in found.err
    told = qwell("train", "doctor", "sft", *line, *QUICK)
    assert told.code == 12 and f"error: {name}: " in told.out and shown in told.out


def test_the_doctor_refuses_lora_on_an_untrained_end(qwell: Run, place: Path) -> None:
    """A model whose end token has the row of another, as rows have that no training touched."""
    import shutil

    from safetensors.torch import load_file, save_file

    base = place / "base"
    shutil.copytree(place / "tiny", base)
    weights = load_file(base / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name][256:259] = 0.01
    save_file(weights, base / "model.safetensors")
    line = ["--model", base, "--data", place / "chats.jsonl", *QUICK]
    found = qwell("train", "doctor", "sft", *line, "--lora-rank", "4")
    assert found.code == 12 and "LoRA on a base model" in found.out and "<|im_end|>" in found.out
    assert "--lora-embeddings" in found.err
    assert qwell("train", "doctor", "sft", *line).code == 0
    whole = qwell("train", "doctor", "sft", *line, "--lora-rank", "4", "--lora-embeddings")
    assert whole.code == 0 and "warning: adapter to be merged" in whole.out


def test_a_wrong_record_is_named(qwell: Run, place: Path) -> None:
    bad = place / "bad.jsonl"
    bad.write_text((place / "chats.jsonl").read_text() + '{"messages": 3}\n')
    line = ["--model", place / "tiny", "--data", bad, "--out", place / "bad-run", *QUICK]
    found = qwell("train", "sft", *line)
    assert found.code in (11, 12) and "bad.jsonl:81" in found.err


def test_training_without_its_packages(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [n for n in sys.modules if n.startswith("qwell.train.") and n.count(".") == 2]:
        if name not in ("qwell.train.config", "qwell.train.recipes"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("qwell.train.sft", raising=False)
    data = ["--model", str(place / "tiny"), "--data", str(place / "chats.jsonl")]
    assert main(["train", "sft", *data, *QUICK]) == 3
    assert "training needs the package torch: run `make setup-train`" in capsys.readouterr().err


@pytest.mark.slow
def test_sigterm_saves_and_ends_well(place: Path, tmp_path: Path) -> None:
    write_texts(tmp_path / "t.jsonl", 80)
    line = [sys.executable, "-m", "qwell", "train", "pretrain", "--model", place / "tiny"]
    line += ["--data", tmp_path / "t.jsonl", "--out", tmp_path / "run", *QUICK, "--steps", "4000"]
    running = subprocess.Popen([str(word) for word in line], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run/log.jsonl"
    until = time.time() + 60
    while not (log.exists() and '"step": 20,' in log.read_text()) and time.time() < until:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 0 and "the same command goes on" in err
    steps = [json.loads(x)["step"] for x in log.read_text().splitlines() if '"kind": "step"' in x]
    assert (tmp_path / f"run/checkpoints/step-{steps[-1]:08d}/state.json").exists()
