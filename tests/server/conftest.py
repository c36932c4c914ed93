"""The official 0.5B behind a real server, loaded once for all tests that need it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qwell.engine.jobs import Limits
from qwell.engine.llm import LLM
from qwell.engine.load import load
from qwell.engine.memory import Room
from tests.server.live import Live, live


@pytest.fixture(scope="session")
def real_llm(official_gguf: Callable[[str], Path]) -> LLM:
    return load(str(official_gguf("0.5b")), ctx=16_384, room=Room(max_seqs=64))


@pytest.fixture
def real(real_llm: LLM) -> Iterator[Live]:
    """A fresh server over it: nothing is in the cache."""
    real_llm.engine.cache.clear()
    with live(real_llm, limits=Limits(max_wait_s=600)) as server:
        server.http.timeout = 300
        yield server
