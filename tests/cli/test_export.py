"""`qwell export`, `qwell merge`, and --adapter where a model is run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from qwell.checkpoint import open_checkpoint
from tests.checkpoint.adapters import write_peft
from tests.cli.tiny import Run, config

ASK = ("-n", "12", "--ignore-eos", "--temperature", "0", "--json")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_peft(tmp_path_factory.mktemp("adapter") / "a", config(), 4, lora_alpha=8)


def ids(run: Run, model: Path, *more: str | Path) -> list[int]:
    result = run("run", model, "Hello", *ASK, *more)
    assert result.code == 0, result.err
    found: list[int] = result.json["token_ids"]
    return found


def test_a_name_decides_the_format(run: Run, model: Path, tmp_path: Path) -> None:
    for name, kind in (("x", "safetensors"), ("x.gguf", "gguf")):
        result = run("export", model, tmp_path / name)
        assert (result.code, result.out) == (0, "") and "written" in result.err
        assert "rounded" not in result.err  # the model is bf16
        assert open_checkpoint(tmp_path / name).format == kind
        assert ids(run, tmp_path / name) == ids(run, model)


def test_a_folder_whose_name_is_no_text(run: Run, model: Path, tmp_path: Path) -> None:
    strange = tmp_path / os.fsdecode(b"m\xff")
    shutil.copytree(model, strange)
    assert run("export", strange, tmp_path / "x.gguf").code == 0
    assert open_checkpoint(tmp_path / "x.gguf").metadata["general.name"] == "m?"


def test_dtype_and_force(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "file"
    told = run("export", model, out, "--format", "gguf", "--dtype", "q8_0")
    assert told.code == 0 and "rounded to q8_0" in told.err
    known = open_checkpoint(out).tensors["lm_head.weight"]
    assert known.dtype == "Q8_0"
    refused = run("export", model, out, "--format", "gguf")
    assert refused.code == 2 and "--force" in refused.err and len(refused.err.splitlines()) == 1
    assert run("export", model, out, "--format", "gguf", "--force").code == 0
    assert open_checkpoint(out).tensors["lm_head.weight"].dtype == "BF16"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("export", "MODEL", "OUT", "--dtype", "q8_0"),
            2,
            "for q8_0 give a name that ends in .gguf",
        ),
        (("export", "MODEL", "OUT", "--dtype", "int4"), 2, "--dtype"),
        (("export", "MODEL", "OUT.gguf", "--format", "hf"), 2, "no name for a folder"),
        (("export", "MODEL"), 2, "OUT"),
        (("export", "/nowhere/at/all", "OUT"), 3, "no file or folder"),
        (("export", "MODEL", "/proc/x/y"), 5, "cannot be written"),
        (("merge", "MODEL", "OUT"), 2, "--adapter"),
        (("merge", "MODEL", "OUT", "--adapter", "/nowhere"), 3, "adapter_config.json"),
        (("run", "MODEL", "Hi", "--adapter", "/nowhere"), 3, "adapter_config.json"),
    ],
)
def test_faults_are_one_line(
    run: Run, model: Path, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    places = {"MODEL": str(model), "OUT": str(tmp_path / "o"), "OUT.gguf": str(tmp_path / "o.gguf")}
    result = run(*(places.get(word, word) for word in words))
    assert result.code == code and said in result.err, result.err
    assert len(result.err.splitlines()) == 1
    assert not list(tmp_path.glob("o*")) and not list(tmp_path.glob(".o*"))


def test_an_adapter_is_run_and_merged(run: Run, model: Path, adapter: Path, tmp_path: Path) -> None:
    changed = ids(run, model, "--adapter", adapter)
    assert changed != ids(run, model)
    for name, dtype in (("m", "f32"), ("m.gguf", "f32")):
        out = tmp_path / name
        assert run("merge", model, out, "--adapter", adapter, "--dtype", dtype).code == 0
        assert ids(run, out) == changed


def test_chat_with_an_adapter(run: Run, model: Path, adapter: Path) -> None:
    asked = ("-n", "6", "--ignore-eos", "--temperature", "0")
    plain = run("chat", model, *asked, stdin=b"Hi\n")
    changed = run("chat", model, *asked, "--adapter", adapter, stdin=b"Hi\n")
    assert plain.code == changed.code == 0 and plain.out != changed.out


def test_verify_and_bench_with_an_adapter(
    run: Run, model: Path, adapter: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    few = ("--windows", "2", "--window-tokens", "64", "--text", str(text), "--json")
    report = run("verify", model, *few, "--adapter", adapter).json
    assert " with adapter " in report["model"]
    assert report["paths"]["prefill"]["kl_mean"] < 0.01
    work = ("--prompt-tokens", "16", "--gen-tokens", "4", "--batch", "1", "--repeat", "1", "--json")
    facts = run("bench", model, *work, "--adapter", adapter).json
    assert facts["adapter"] in report["model"] and facts["kl"] is None
    assert "lora_B" in facts["runs"][0]["phases_ms"]["decode"]
    weights = sum(len(t.data) for t in open_checkpoint(model).tensors.values())
    factors = sum(p.stat().st_size for p in adapter.glob("*.safetensors")) / 2  # bf16, as the base
    assert facts["runs"][0]["bytes_per_token"] > weights - 259 * 64 * 2 + 0.9 * factors
