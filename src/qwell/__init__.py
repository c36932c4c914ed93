"""qwell: Qwen2.5, whole, in Python, on the CPU you have.

    import qwell
    llm = qwell.load("qwen2.5-coder:0.5b")
    print(llm.chat("Write a haiku about memory.").text)

Nothing is imported before it is used, so `import qwell` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwell import errors as errors
    from qwell.engine.grammar_spec import GrammarSpec as GrammarSpec
    from qwell.engine.llm import LLM as LLM
    from qwell.engine.load import load as load
    from qwell.engine.load import load_tokenizer as load_tokenizer
    from qwell.engine.types import Completion as Completion
    from qwell.engine.types import Piece as Piece
    from qwell.engine.types import SamplingParams as SamplingParams

_HOMES = {
    "load": "qwell.engine.load",
    "load_tokenizer": "qwell.engine.load",
    "GrammarSpec": "qwell.engine.grammar_spec",
    "LLM": "qwell.engine.llm",
    "Completion": "qwell.engine.types",
    "Piece": "qwell.engine.types",
    "SamplingParams": "qwell.engine.types",
}
__all__ = [
    "LLM",
    "Completion",
    "GrammarSpec",
    "Piece",
    "SamplingParams",
    "errors",
    "load",
    "load_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("qwell.errors")
    if name == "__version__":
        from importlib.metadata import version

        return version("qwell")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'qwell' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
