"""Fixtures every room shares: the official files, fetched once into the user's cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def official_gguf() -> Callable[[str], Path]:
    """official_gguf("0.5b"): path of the official Qwen2.5-Coder-Instruct GGUF of that size.

    A test that needs it is marked `weights`; if the file cannot be had the test fails, it does
    not skip.
    """
    return _resolve


@cache
def _resolve(size: str) -> Path:
    from qwell.hub.resolve import resolve

    return resolve(f"qwen2.5-coder:{size}").paths[0]
