"""The packed cache: one folder for each state of a checkpoint's files, written at the first start.

    $QWELL_HOME/packed/<key>/model.json      version, model, source, config, generation, template
                             tokenizer.json  the tokenizer in its fast form
                             weights.bin     written and read by `native`, with weights.json

Later starts read that folder alone and never open the checkpoint. It is written under another
name beside its place and renamed when whole: what stands there is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwell.config import GenerationConfig, ModelConfig
from qwell.errors import CheckpointError
from qwell.hub import packs, place
from qwell.hub.resolve import ResolvedModel
from qwell.text.template import find_template
from qwell.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from qwell.checkpoint import Checkpoint

Progress = Callable[[int, int], None]
"""Called with bytes packed so far and in all."""

VERSION = 1
"""Of model.json. Another one is packed anew."""
MODEL, TOKENIZER, WEIGHTS = "model.json", "tokenizer.json", "weights.bin"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What model.json says, or a checkpoint."""

    config: ModelConfig
    generation: GenerationConfig
    chat_template: str | None


def facts_of(checkpoint: Checkpoint) -> Facts:
    """What model.json will say of an opened checkpoint."""
    if checkpoint.folder:
        template: object = find_template(checkpoint.folder)
    else:
        template = checkpoint.metadata.get("tokenizer.chat_template")
    return Facts(
        config=checkpoint.config,
        generation=checkpoint.generation,
        chat_template=template if isinstance(template, str) else None,
    )


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of an opened checkpoint, from its folder's files or its GGUF keys."""
    if checkpoint.folder:
        return Tokenizer.from_folder(checkpoint.folder)
    return Tokenizer.from_gguf(checkpoint.metadata)


def packed_folder(resolved: ResolvedModel, *, int8: bool = False) -> Path:
    """Where the pack of these files stands, or would. int8: float matrices packed to Q8_0."""
    from qwell.native import packed_key

    return packs.packed_dir() / packed_key(_sources(resolved), int8=int8)


def read_facts(folder: Path) -> Facts | None:
    """What stands in a packed folder; None if there is none, or one to be made anew."""
    try:
        raw = json.loads((folder / MODEL).read_text(encoding="utf-8"))
        if raw["version"] != VERSION:
            return None
        if not all((folder / name).exists() for name in (TOKENIZER, WEIGHTS)):
            return None
        return Facts(
            config=ModelConfig.from_dict(raw["config"]),
            generation=GenerationConfig.from_dict(raw["generation"]),
            chat_template=raw["chat_template"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CheckpointError):
        return None


def pack(
    resolved: ResolvedModel, folder: Path, *, int8: bool = False, progress: Progress | None = None
) -> Facts:
    """Writes the packed folder, or waits for the process that does. A failure leaves no trace.
    Packs of an earlier state of the same files, or of an earlier version, are deleted.

    Raises what `open_checkpoint` raises, and StorageError if the disk is full or forbidden.
    """
    from qwell.checkpoint import open_checkpoint
    from qwell.native import check_supported
    from qwell.native.pack import packed_bytes

    checkpoint, sources = open_checkpoint(resolved.paths), _sources(resolved)
    check_supported(checkpoint.config)
    place.check_space(packed_bytes(checkpoint.tensors, int8=int8))
    with place.writing(folder), place.exclusive(_lock_path(folder), lambda: None):
        if (found := read_facts(folder)) is None:
            with _appearing(folder) as unfinished:
                _write(unfinished, checkpoint, resolved.name, sources, int8=int8, progress=progress)
            _remove_stale(sources)
    return found or facts_of(checkpoint)


def _remove_stale(sources: Sequence[Path]) -> None:
    """Nobody will ask for them: the key of a pack names the state of its files and our version."""
    from qwell.native import packed_key

    asked_for = {packed_key(sources, int8=int8) for int8 in (False, True)}
    for facts in packs.packed_dir().glob("[!.]*/model.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            made_from = json.loads(facts.read_text(encoding="utf-8"))["source"]
            if facts.parent.name not in asked_for and {*made_from} & {str(p) for p in sources}:
                shutil.rmtree(facts.parent)


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _sources(resolved: ResolvedModel) -> list[Path]:
    """The files a pack depends on: a change of one makes another key."""
    if resolved.kind == "gguf":
        return [path.absolute() for path in resolved.paths]
    suffixes = {".safetensors", ".json", ".txt", ".jinja"}
    files = resolved.paths[0].absolute().iterdir()
    return sorted(path for path in files if path.suffix in suffixes and path.is_file())


def _write(
    folder: Path,
    checkpoint: Checkpoint,
    name: str,
    sources: Sequence[Path],
    *,
    int8: bool,
    progress: Progress | None,
) -> None:
    from qwell.native.pack import write_packed

    tokenizer_of(checkpoint).save(folder / TOKENIZER)
    write_packed(folder, checkpoint.tensors, int8=int8, progress=progress)
    facts = {
        "version": VERSION,
        "model": name,
        "source": [str(path) for path in sources],
        **asdict(facts_of(checkpoint)),
    }
    (folder / MODEL).write_text(json.dumps(facts, indent=1), encoding="utf-8")


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A new folder that takes the name `folder`, and the place of what stood there, when the block
    ends well, and is gone when it does not."""
    for left in folder.parent.glob(f".{folder.name}-*"):  # by a process that was killed
        shutil.rmtree(left)
    unfinished = folder.with_name(f".{folder.name}-{os.getpid()}")
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
