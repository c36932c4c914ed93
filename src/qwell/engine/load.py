"""A name becomes a loaded model: files, packed cache, memory check, LLM.

The first start packs the checkpoint into kernel order, one folder for each state of its files:

    $QWELL_HOME/packed/<key>/model.json      version, model, source, config, generation, template
                             tokenizer.json  the tokenizer in its fast form
                             weights.bin     written and read by `native`, with weights.json

Every later start reads that folder alone and never opens the checkpoint. It is written beside
under another name and renamed when whole, so what stands there is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from qwell.config import GenerationConfig, ModelConfig
from qwell.engine.llm import LLM
from qwell.engine.memory import check_memory
from qwell.engine.types import Backend
from qwell.errors import CheckpointError, UsageError
from qwell.hub import store
from qwell.hub.resolve import ResolvedModel, resolve
from qwell.text.template import ChatTemplate, find_template
from qwell.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from qwell.checkpoint import Checkpoint

Progress = Callable[[int, int], None]
"""Called with bytes packed so far and in all."""

VERSION = 1
"""Of model.json. Another one is packed anew."""
DEFAULT_CTX = 32_768
_MODEL, _TOKENIZER, _WEIGHTS = "model.json", "tokenizer.json", "weights.bin"


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What model.json says."""

    config: ModelConfig
    generation: GenerationConfig
    chat_template: str | None


def load(
    model: str,
    *,
    ctx: int | None = None,
    num_threads: int | None = None,
    backend: str = "native",
    progress: Progress | None = None,
) -> LLM:
    """Loads `model`: an alias, a Hugging Face id, a folder or a .gguf file.

    ctx: tokens a request may have, prompt and reply; by default the model's own limit, at most
    32,768. num_threads: of the native back end, by default what this process may use.
    backend: 'native', or 'reference' (NumPy float32, slow, the truth).
    Raises what `resolve` raises, CheckpointError, UnsupportedModelError, UsageError,
    StorageError (the cache cannot be written), MemoryBudgetError.
    """
    start = perf_counter()
    if backend not in ("native", "reference"):
        raise UsageError(f"backend {backend!r} is unknown; it is 'native' or 'reference'")
    if ctx is not None and ctx < 1:
        raise UsageError(f"ctx is {ctx}; it must be at least 1")
    if num_threads is not None and (num_threads < 1 or backend == "reference"):
        raise UsageError("num_threads must be at least 1, and is for the native back end only")
    resolved = resolve(model)
    if backend == "native":
        llm = _load_native(resolved, ctx, num_threads, progress)
    else:
        llm = _load_reference(resolved, ctx)
    llm.engine.load_ms = 1000 * (perf_counter() - start)
    return llm


def load_tokenizer(model: str) -> Tokenizer:
    """The tokenizer of `model` alone, from the packed cache if it is there. Writes nothing."""
    resolved = resolve(model)
    folder = _folder(resolved)
    if _read_facts(folder) is not None:
        return Tokenizer.from_file(folder / _TOKENIZER)
    from qwell.checkpoint import open_checkpoint

    return _tokenizer(open_checkpoint(resolved.paths))


def _load_native(
    resolved: ResolvedModel, ctx: int | None, num_threads: int | None, progress: Progress | None
) -> LLM:
    from qwell.native import NativeModel

    folder = _folder(resolved)
    facts = _read_facts(folder) or _pack(resolved, folder, progress)
    ctx = _context(resolved.name, facts.config, ctx)
    weight_bytes = (folder / _WEIGHTS).stat().st_size
    check_memory(
        resolved.name, facts.config, weight_bytes=weight_bytes, ctx=ctx, kv_element_bytes=2
    )
    # Weights are read without the GIL, so the tokenizer is built meanwhile.
    with ThreadPoolExecutor(1) as pool:
        tokenizer = pool.submit(Tokenizer.from_file, folder / _TOKENIZER)
        native = NativeModel.open(folder, facts.config, num_threads=num_threads)
        return _llm(resolved, native, tokenizer.result(), facts, ctx)


def _load_reference(resolved: ResolvedModel, ctx: int | None) -> LLM:
    from qwell.checkpoint import open_checkpoint
    from qwell.model.reference import ReferenceModel
    from qwell.model.weights import build_weights

    checkpoint = open_checkpoint(resolved.paths)
    facts = _facts_of(checkpoint)
    ctx = _context(resolved.name, facts.config, ctx)
    weight_bytes = 4 * facts.config.num_parameters
    check_memory(
        resolved.name, facts.config, weight_bytes=weight_bytes, ctx=ctx, kv_element_bytes=4
    )
    model = ReferenceModel(build_weights(facts.config, checkpoint.tensors))
    return _llm(resolved, model, _tokenizer(checkpoint), facts, ctx)


def _llm(
    resolved: ResolvedModel, backend: Backend, tokenizer: Tokenizer, facts: _Facts, ctx: int
) -> LLM:
    return LLM(
        name=resolved.name,
        backend=backend,
        tokenizer=tokenizer,
        template=ChatTemplate(facts.chat_template) if facts.chat_template else None,
        generation=_generation(resolved, facts.generation),
        max_context=ctx,
    )


def _generation(resolved: ResolvedModel, found: GenerationConfig) -> GenerationConfig:
    """A GGUF file carries no generation_config.json, so where the catalogue knows the model its
    values count. The end ids of both do."""
    known = resolved.entry.generation if resolved.entry and resolved.kind == "gguf" else None
    if known is None:
        return found
    return replace(known, eos_token_ids=tuple({*known.eos_token_ids, *found.eos_token_ids}))


def _context(name: str, config: ModelConfig, ctx: int | None) -> int:
    limit = config.max_position_embeddings
    if ctx is not None and ctx > limit:
        raise UsageError(f"ctx is {ctx:,}, but {name} was made for at most {limit:,} tokens")
    return min(limit, DEFAULT_CTX) if ctx is None else ctx


def _sources(resolved: ResolvedModel) -> list[Path]:
    """The files a packed cache depends on: a change of one makes another key."""
    if resolved.kind == "gguf":
        return [path.absolute() for path in resolved.paths]
    suffixes = {".safetensors", ".json", ".txt", ".jinja"}
    files = resolved.paths[0].absolute().iterdir()
    return sorted(path for path in files if path.suffix in suffixes and path.is_file())


def _folder(resolved: ResolvedModel) -> Path:
    from qwell.native import packed_key

    return store.packed_dir() / packed_key(_sources(resolved))


def _read_facts(folder: Path) -> _Facts | None:
    """What stands in a packed folder; None if there is none, or one to be made anew."""
    try:
        raw = json.loads((folder / _MODEL).read_text(encoding="utf-8"))
        if raw["version"] != VERSION or not (folder / _TOKENIZER).exists():
            return None
        return _Facts(
            config=ModelConfig.from_dict(raw["config"]),
            generation=GenerationConfig.from_dict(raw["generation"]),
            chat_template=raw["chat_template"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CheckpointError):
        return None


def _pack(resolved: ResolvedModel, folder: Path, progress: Progress | None) -> _Facts:
    """Writes the packed folder, or waits for the process that does. A failure leaves no trace."""
    from qwell.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(resolved.paths)
    sources = _sources(resolved)
    with store.lock(f"packed-{folder.name}", lambda: None):
        if found := _read_facts(folder):
            return found
        store.check_space(sum(path.stat().st_size for path in sources))
        with store.writing(folder), _appearing(folder) as unfinished:
            _write(unfinished, checkpoint, resolved.name, sources, progress)
    return _facts_of(checkpoint)


def _write(
    folder: Path,
    checkpoint: Checkpoint,
    name: str,
    sources: Sequence[Path],
    progress: Progress | None,
) -> None:
    from qwell.native import write_packed

    _tokenizer(checkpoint).save(folder / _TOKENIZER)
    write_packed(folder, checkpoint.tensors, progress=progress)
    facts = {
        "version": VERSION,
        "model": name,
        "source": [str(path) for path in sources],
        **asdict(_facts_of(checkpoint)),
    }
    (folder / _MODEL).write_text(json.dumps(facts, indent=1), encoding="utf-8")


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its name, and the place of what stood there, when
    the block ends well, and is gone when it does not."""
    parent = folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f".{folder.name}-*"):  # by a process that was killed
        shutil.rmtree(left)
    unfinished = parent / f".{folder.name}-{os.getpid()}"
    unfinished.mkdir()
    try:
        yield unfinished
        for path in unfinished.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # or a power cut could leave the name without the bytes
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        with suppress(OSError):
            parent.rmdir()  # takes only an empty one


def _facts_of(checkpoint: Checkpoint) -> _Facts:
    template = (
        find_template(checkpoint.folder)
        if checkpoint.folder
        else checkpoint.metadata.get("tokenizer.chat_template")
    )
    return _Facts(
        config=checkpoint.config,
        generation=checkpoint.generation,
        chat_template=template if isinstance(template, str) else None,
    )


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    if checkpoint.folder:
        return Tokenizer.from_folder(checkpoint.folder)
    return Tokenizer.from_gguf(checkpoint.metadata)
