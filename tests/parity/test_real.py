"""The native program on the real models meets the bars of `qwell verify`, on both paths.

The text is wikitext-2 where QWELL_EVAL_TEXT names it or it lies beside the repository, else the
one `verify` finds by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qwell.eval.parity import verify

WIKITEXT = Path(__file__).parents[3] / "shared" / "data" / "wikitext-2.test.txt"


def text() -> Path | None:
    return WIKITEXT if not os.environ.get("QWELL_EVAL_TEXT") and WIKITEXT.exists() else None


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("size", ["0.5b", "1.5b"])
def test_verify_meets_its_bars(official_gguf: Callable[[str], Path], size: str) -> None:
    report = verify(str(official_gguf(size)), text=text())
    print(report.table())
    assert set(report.paths) == {"prefill", "decode"}
    assert all(found.rows == 8 * 512 for found in report.paths.values())
    assert report.failures == ()
