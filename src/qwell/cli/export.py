"""`qwell export MODEL OUT`, `qwell merge MODEL --adapter DIR OUT`: a model as files for others."""

from __future__ import annotations

from qwell.cli.opening import fetch
from qwell.cli.terminal import Progress, note
from qwell.errors import UsageError


def export(
    model: str,
    out: str,
    *,
    format: str | None = None,
    dtype: str | None = None,
    adapter: str | None = None,
    force: bool = False,
) -> None:
    """Writes the model; without --format a name that ends in .gguf makes a GGUF file."""
    from qwell.engine.export import export as write

    is_gguf = out.lower().endswith(".gguf")
    format = format or ("gguf" if is_gguf else "hf")
    if format == "hf" and is_gguf:
        raise UsageError(f"{out!r} is no name for a folder: leave out --format, or .gguf")
    fetch(model)
    progress = Progress("writing the weights", in_pipes=True)
    try:
        is_exact = write(
            model, out, format=format, dtype=dtype, adapter=adapter, force=force, progress=progress
        )
    finally:
        progress.close()
    rounded = f"; weights were rounded to {dtype or 'bf16'}, --dtype f32 keeps every bit"
    note(f"written: {out}{'' if is_exact else rounded}")


def merge(
    model: str,
    out: str,
    *,
    adapter: str,
    format: str | None = None,
    dtype: str | None = None,
    force: bool = False,
) -> None:
    """Writes the model with the adapter in its weights."""
    export(model, out, format=format, dtype=dtype, adapter=adapter, force=force)
