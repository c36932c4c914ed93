"""`qwell verify MODEL`: is the program the model its file describes? Prints the parity report."""

from __future__ import annotations

import json

from qwell.cli.opening import fetch
from qwell.cli.terminal import note
from qwell.errors import QwellError


def verify(
    model: str,
    *,
    windows: int = 8,
    window_tokens: int = 512,
    text: str | None = None,
    threads: int | None = None,
    int8: bool = False,
    kv_dtype: str | None = None,
    adapter: str | None = None,
    as_json: bool = False,
) -> None:
    """Prints the report. Raises QwellError if a bar is not met, or too little text was measured to
    tell."""
    from qwell.eval.parity import verify as measure

    fetch(model)
    report = measure(
        model,
        windows=windows,
        window_tokens=window_tokens,
        text=text,
        num_threads=threads,
        int8=int8,
        kv_dtype=kv_dtype,
        adapter=adapter,
        progress=note,
    )
    print(json.dumps(report.to_dict()) if as_json else report.table())
    if report.unclear and not report.failures:
        raise QwellError(
            f"{windows} windows of {window_tokens} tokens are too little to judge {model} by: "
            f"{report.unclear[0]}; measure more with --windows"
        )
    if not report.passed:
        raise QwellError(f"{model} does not meet its bars: {report.failures[0]}; do not trust it")
