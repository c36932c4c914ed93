"""Shared by the tests of grammars."""

from __future__ import annotations

import pytest

from qwell.engine.grammar import GrammarCompiler
from tests.engine import random_reply


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    """What it has compiled is kept for the tests of a file."""
    return random_reply.compiler()
