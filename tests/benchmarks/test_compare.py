"""The command line, the work, and what is built from it; nothing is installed or measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare import IDS, parse, works_of
from engines import Starter, engines
from environments import RECIPES, commands, python_of
from models import Models
from peer import PeerError


def test_defaults_are_the_two_works_of_the_issue():
    args = parse(["m"])
    works = works_of(args)
    assert [(w.batch, w.prompt_tokens, w.gen_tokens) for w in works] == [
        (1, 512, 64),
        (16, 128, 64),
    ]
    assert args.peers == ["llama", "openvino", "transformers"]


def test_the_work_is_the_same_every_time_and_its_prompts_differ():
    args = ["m", "--batch", "4", "--prompt-tokens", "100"]
    [work] = works_of(parse(args))
    assert [work] == works_of(parse(args))
    assert len({prompt[:8] for prompt in work.prompts}) == 4
    assert all(0 <= token < IDS for prompt in work.prompts for token in prompt)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--peers", "vllm"],
        ["--rounds", "0"],
        ["--batch", "1,x"],
        ["--prompt-tokens", "-5"],
        ["--limit", "sse"],
        ["--limit", "avx2", "--peers", "openvino"],
    ],
)
def test_bad_options_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as error:
        parse(["m", *wrong])
    assert error.value.code == 2
    assert "error: " in capsys.readouterr().err


def starter(folder: Path, limit: str | None = None) -> Starter:
    source = folder / "m.gguf"
    source.write_bytes(b"GGUF")
    return Starter("m", Models("m", source, folder), folder, 2, limit)


def test_twins_are_compared_with_our_twin(tmp_path: Path):
    found = engines(starter(tmp_path), ["transformers", "llama"], twin=True)
    assert [(engine.name, engine.against) for engine in found] == [
        ("qwell", "qwell"),
        ("transformers", "qwell"),
        ("llama.cpp", "qwell"),
        ("qwell Q4_0", "qwell Q4_0"),
        ("llama.cpp Q4_0", "qwell Q4_0"),
    ]


@pytest.mark.parametrize(
    ("limit", "has", "has_not"),
    [("avx512", ["AVX512=ON", "AVX512_VNNI=ON", "F16C=ON"], []), ("avx2", ["AVX2=ON"], ["AVX512"])],
)
def test_a_limit_has_an_environment_of_its_own(
    tmp_path: Path, limit: str, has: list[str], has_not: list[str]
):
    flags = RECIPES[starter(tmp_path, limit).llama].env["CMAKE_ARGS"]
    assert all(text in flags for text in ["NATIVE=OFF", "AVX_VNNI=OFF", "AMX_INT8=OFF", *has])
    assert not any(text in flags for text in has_not)


def test_an_environment_is_a_venv_then_pip(tmp_path: Path):
    venv, install, remove = commands(RECIPES["openvino"], tmp_path)
    assert venv[1:3] == ["-m", "venv"]
    assert install[1:4] == ["-m", "pip", "install"]
    assert remove[-1] == "torchvision"


def test_an_environment_that_cannot_be_built_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("environments.commands", lambda *_: [["false"]])
    with pytest.raises(PeerError, match=r"could not be built: see .*llama-install\.log"):
        python_of("llama", tmp_path)


def test_an_interrupted_form_of_the_model_is_made_again(tmp_path: Path):
    models = starter(tmp_path).models
    (models.folder / "bf16.part").mkdir(parents=True)
    calls = []

    def build(out: str) -> None:
        calls.append(out)
        Path(out).mkdir()

    assert models._make("bf16", build) == models._make("bf16", build)
    assert len(calls) == 1


def test_llama_takes_no_folder(tmp_path: Path):
    with pytest.raises(PeerError, match="GGUF"):
        Models("m", tmp_path, tmp_path).gguf()
