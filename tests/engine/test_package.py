"""`import qwell` is light, and gives what it promises."""

from __future__ import annotations

import subprocess
import sys

import pytest

import qwell


def test_the_names_are_there() -> None:
    for name in qwell.__all__:
        assert getattr(qwell, name) is not None
        assert name in dir(qwell)
    assert issubclass(qwell.errors.UsageError, qwell.errors.QwellError)
    assert qwell.__version__
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        qwell.lod  # noqa: B018


def test_import_brings_nothing_heavy() -> None:
    """Modules are counted, not seconds: a loaded machine must not fail the test."""
    code = "import sys, qwell; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"numpy", "tokenizers", "jinja2", "torch", "typing_extensions"}.isdisjoint(
        run.stdout.split()
    )
    code = "import sys, qwell; qwell.load, qwell.LLM; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"jinja2", "torch", "huggingface_hub", "tokenizers", "llguidance"}.isdisjoint(
        run.stdout.split()
    )
