"""A model qwell can open -> a Hugging Face folder or a GGUF file, an adapter merged into it or not.

Joins what the packages below keep apart: weights, tokenizer, template, the makers' sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from qwell.checkpoint import Source, merged, open_adapter, open_checkpoint, write_gguf, write_hf
from qwell.checkpoint.tensor import Checkpoint
from qwell.engine.load import generation_of
from qwell.engine.packed import facts_of, tokenizer_of
from qwell.errors import UsageError
from qwell.hub.resolve import resolve
from qwell.text.files import gguf_keys, hf_files

Progress = Callable[[int, int], None]
DTYPES = {"hf": ("bf16", "f32", "f16"), "gguf": ("bf16", "f32", "q8_0")}
"""What each format can hold; the first is the default."""
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
    *("added_tokens.json", "special_tokens_map.json", "chat_template.jinja"),
)


def export(
    model: str,
    out: str | Path,
    *,
    format: str = "hf",
    dtype: str | None = None,
    adapter: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> bool:
    """Writes `model` (what `qwell.load` takes) to `out`: format 'hf' makes a folder, 'gguf' a file.

    dtype: of DTYPES[format]; weights of a quantised file are dequantised first. adapter: a PEFT
    folder that is merged into the weights, in float32. Nothing is replaced unless `force`. Gives
    whether every number written is that of the model, none rounded.
    progress(done, total) counts bytes of weights. Raises UsageError, StorageError (the disk), what
    `resolve`, `open_checkpoint` and `open_adapter` raise, CheckpointError for a weight that is not
    finite in dtype."""
    if format not in DTYPES:
        raise UsageError(f"format {format!r} is unknown; it is 'hf' or 'gguf'")
    dtype = dtype or DTYPES[format][0]
    if dtype not in DTYPES[format]:
        raise UsageError(_misfit(format, dtype))
    parts = _parts(model, adapter)
    write = _write_hf if format == "hf" else _write_gguf
    write(parts, Path(out).expanduser(), dtype, force, progress)
    vectors = "F32" if format == "gguf" else dtype.upper()
    kinds = (
        (t.dtype, vectors if len(t.shape) == 1 else dtype.upper()) for t in parts.tensors.values()
    )
    return all(kind in ("F32", own) for own, kind in kinds)


def _misfit(format: str, dtype: str) -> str:
    """A GGUF is asked for by its name, which is easily left out."""
    told = f"{format} cannot hold {dtype!r}; it takes {', '.join(DTYPES[format])}"
    is_name = format == "hf" and dtype in DTYPES["gguf"]
    return told + (f"; for {dtype} give a name that ends in .gguf" if is_name else "")


@dataclass(frozen=True)
class _Parts:
    name: str
    checkpoint: Checkpoint
    tensors: Mapping[str, Source]


def _parts(model: str, adapter: str | Path | None) -> _Parts:
    resolved = resolve(model)
    checkpoint = open_checkpoint(resolved.paths)
    generation = generation_of(resolved, checkpoint.generation)
    checkpoint = replace(checkpoint, generation=generation)
    tensors: Mapping[str, Source] = checkpoint.tensors
    if adapter is not None:
        folder = Path(adapter).expanduser()
        tensors = merged(tensors, open_adapter(folder, checkpoint.config, to_merge=True))
    name = resolved.name if resolved.entry else Path(resolved.name).name
    return _Parts(name, checkpoint, tensors)


def _write_hf(parts: _Parts, out: Path, dtype: str, force: bool, progress: Progress | None) -> None:
    source, facts = parts.checkpoint, facts_of(parts.checkpoint)
    files = hf_files(tokenizer_of(source), facts.chat_template)
    files |= _own_files(source.folder) if source.folder else {}
    write_hf(
        out,
        source.config,
        source.generation,
        parts.tensors,
        dtype=dtype,
        files=files,
        force=force,
        progress=progress,
    )


def _own_files(folder: Path) -> dict[str, bytes]:
    """The tokenizer files of a folder as they are: they may say more than we read."""
    paths = [folder / name for name in _TOKENIZER_FILES]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def _write_gguf(
    parts: _Parts, out: Path, dtype: str, force: bool, progress: Progress | None
) -> None:
    source, facts = parts.checkpoint, facts_of(parts.checkpoint)
    keys = gguf_keys(tokenizer_of(source), facts.chat_template, source.config.vocab_size)
    keys.setdefault("tokenizer.ggml.eos_token_id", source.generation.eos_token_ids[0])
    write_gguf(
        out,
        source.config,
        source.generation,
        parts.tensors,
        dtype=dtype,
        tokenizer=keys,
        name=parts.name,
        force=force,
        progress=progress,
    )
