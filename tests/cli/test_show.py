"""`qwell show`: facts that equal the files', for models here and models only known."""

from __future__ import annotations

from pathlib import Path

import pytest

import qwell
from qwell.engine.packed import WEIGHTS, packed_folder
from qwell.hub.resolve import resolve
from qwell.native import NativeModel
from tests.checkpoint.make import random_tensors, write_gguf
from tests.cli.tiny import Run, config, tree


def test_facts_of_a_folder(run: Run, model: Path) -> None:
    facts = run("show", model, "--json").json
    assert facts["on_this_machine"] is True and facts["chat_template"] is True
    assert facts["context"] == 512
    assert facts["parameters"] == sum(t.size for t in random_tensors(config()).values())
    assert facts["tensors"] == {"BF16": len(random_tensors(config()))}
    assert (
        facts["kv_bytes_per_1k_tokens"] == 1024 * 2 * 2 * 2 * 16 * 2
    )  # layers, kv, heads, H, bf16
    assert facts["sampling"]["eos_token_ids"] == [258]
    packed = (packed_folder(resolve(str(model))) / WEIGHTS).stat().st_size
    assert packed * 0.9 < facts["weight_bytes"] <= packed


def test_text_has_a_line_a_fact(run: Run, model: Path) -> None:
    lines = run("show", model).out.splitlines()
    told = {line[:24].strip(): line[24:] for line in lines}
    assert told["context"] == "512"
    assert told["chat template"] == "yes"
    assert "num_hidden_layers 2" in told["architecture"]
    assert told["licence"] == "unknown"


def test_a_terminal_gets_facts_in_lines_that_fit(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = run("show", model).out
    assert max(map(len, piped.splitlines())) > 80
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    lines = run("show", model).out.splitlines()
    assert all(len(line) <= 80 for line in lines if str(model) not in line)
    assert " ".join(" ".join(lines).split()) == " ".join(piped.split())


def test_licence_of_the_file(run: Run, model: Path, tmp_path: Path) -> None:
    gguf = write_gguf(
        tmp_path / "m.gguf", config(), random_tensors(config()), extra={"general.license": "mit"}
    )
    facts = run("show", gguf, "--json").json
    assert (facts["licence"], facts["format"], facts["chat_template"]) == ("mit", "gguf", False)
    copied = tmp_path / "copy"
    copied.mkdir()
    for file in model.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    (copied / "LICENSE.txt").write_text("...")
    assert run("show", copied, "--json").json["licence"].endswith("LICENSE.txt")


def test_program_is_that_of_the_model(run: Run, model: Path) -> None:
    backend = qwell.load(str(model)).backend
    assert isinstance(backend, NativeModel)
    listed = run("show", model, "--program")
    assert listed.out.endswith(backend.listing() + "\n")
    assert run("show", model, "--program", "--json").json["program"] == (
        backend.listing().splitlines()
    )


@pytest.mark.parametrize("name", ["qwen2.5:7b", "qwen2.5-math:1.5b", "Org/Name"])
def test_a_model_that_is_not_here(run: Run, name: str, home: Path) -> None:
    before = tree(home)
    result = run("show", name, "--json")
    assert (result.code, result.json["on_this_machine"]) == (0, False)
    assert result.json["model"] == name
    assert run("show", name).out.splitlines()[1].endswith("no")
    assert tree(home) == before
