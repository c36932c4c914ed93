"""The frame around all commands: help, version, and how every kind of fault leaves the process."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest

from qwell.cli import main as main_module
from qwell.cli.main import COMMANDS
from qwell.cli.options import OPTIONS, Parser
from tests.cli.tiny import Run, process


def test_help_and_version(run: Run) -> None:
    pyproject = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())
    assert run("--version").out == f"qwell {pyproject['project']['version']}\n"
    assert run("version") == run("-V") == run("--version")
    assert run("help", "train", "sft") == run("train", "sft", "--help")
    bare, asked = run(), run("--help")
    assert bare == asked and asked.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in asked.out
        told = run(command, "--help")
        assert run("help", command) == told
        assert (told.code, told.err) == (0, "") and told.out.startswith(f"usage: qwell {command}")


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"train"}))
def test_options_are_parameters_of_the_command(name: str) -> None:
    """Every option arrives: a parameter of its name, or one of SamplingParams."""
    from dataclasses import fields

    from qwell.engine.types import SamplingParams

    module, _, function = COMMANDS[name][0].partition(":")
    parameters = signature(getattr(import_module(module), function)).parameters
    known = {*parameters} | (
        {f.name for f in fields(SamplingParams)} if "sampling" in parameters else set()
    )
    actions = Parser(name, "", OPTIONS[name])._actions
    assert {action.dest for action in actions} - {"help"} <= known


def test_start_imports_nothing_heavy() -> None:
    """--help must not pay for arrays, templates or the network."""
    code = (
        "import sys; from qwell.cli.main import main; main(['run', '--help']); "
        "print(sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "tokenizers", "jinja2", "huggingface_hub", "rich", "prompt_toolkit", "typer"}
    assert not heavy & set(done.stderr.strip("[]\n").replace("'", "").split(", "))


FAULTS: list[tuple[BaseException, int, str]] = [
    (KeyError("x"), 70, "this is a bug of qwell (KeyError: 'x')"),
    (ValueError("two\nlines"), 70, "two lines"),
    (AssertionError(), 70, "QWELL_DEBUG=1"),
    (MemoryError(), 10, "smaller model"),
    (RuntimeError("can't start new thread"), 10, "limits"),
    (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed"), 1, "another process"),
    (OSError(28, "No space left on device", "/x/y"), 5, "/x/y: No space left on device"),
    (ImportError("no _core"), 1, "qwell doctor"),
]


@pytest.mark.parametrize("fault, code, word", FAULTS, ids=lambda v: type(v).__name__)
def test_a_fault_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: BaseException, code: int, word: str
) -> None:
    def broken() -> None:
        raise fault

    monkeypatch.setattr("qwell.cli.doctor.doctor", broken)
    result = run("doctor")
    assert result.code == code
    assert len(result.err.splitlines()) == 1 and word in result.err
    monkeypatch.setenv("QWELL_DEBUG", "1")
    told = run("doctor")
    assert told.code == code and "Traceback" in told.err
    assert told.err.splitlines()[-1] == result.err.strip()


def test_ctrl_c_is_130_and_silent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qwell.cli.doctor.doctor", interrupted)
    result = run("doctor")
    assert (result.code, result.out, result.err) == (main_module.INTERRUPTED, "", "")


def test_closed_pipe_is_silent(model: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        result = process("run", model, "Hi", "-n", "50", "--ignore-eos", stdout=pipe)
    assert (result.code, result.err) == (main_module.PIPE_CLOSED, "")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux")
def test_full_disk_is_one_line_also_at_exit() -> None:
    with Path("/dev/full").open("w") as full:
        result = process("--help", stdout=full)
    assert result.code == 5 and len(result.err.splitlines()) == 1, result


def test_without_a_stdout() -> None:
    result = process("--help", before=lambda: os.close(1))
    assert (result.code, result.err) == (0, "")


def test_python_dash_m_is_the_command() -> None:
    assert process("--version").out.startswith("qwell ")
