"""`qwell show MODEL`: what a model is and what it needs, without loading it.

A model that is not on this machine is shown as far as the catalogue knows it; nothing is pulled.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qwell.errors import NotFoundError

if TYPE_CHECKING:
    from qwell.checkpoint import Checkpoint
    from qwell.hub.catalogue import Entry
    from qwell.hub.resolve import ResolvedModel

_INDENT = 24


def show(model: str, *, program: bool = False, as_json: bool = False) -> None:
    """Prints the facts; `program` adds the fused phases."""
    from qwell.hub.catalogue import lookup
    from qwell.hub.resolve import find, local_model

    resolved = local_model(model) or find(lookup(model))
    if resolved is None:
        if program:
            raise NotFoundError(f"{model} is not on this machine: run 'qwell pull {model}' first")
        _print(_entry_facts(lookup(model)), as_json)
        return
    from qwell.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(resolved.paths)
    facts = _facts(resolved, checkpoint)
    if program:
        facts["program"] = _program(checkpoint).splitlines()
    _print(facts, as_json)


def _entry_facts(entry: Entry) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "model": entry.name,
        "on_this_machine": False,
        "repository": entry.repo,
        "format": entry.kind if entry.tag is None else f"gguf {entry.tag}",
        "parameters": entry.parameters,
        "download_bytes": sum(file.size for file in entry.files) or None,
        "sampling": asdict(entry.generation) if entry.generation else None,
        "licence": entry.licence,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _facts(resolved: ResolvedModel, checkpoint: Checkpoint) -> dict[str, Any]:
    from qwell.engine.memory import kv_bytes
    from qwell.native.pack import packed_nbytes

    config, entry = checkpoint.config, resolved.entry
    tensors = checkpoint.tensors.values()
    generation = (entry and entry.generation) or checkpoint.generation
    return {
        "model": resolved.name,
        "on_this_machine": True,
        "files": [str(path) for path in resolved.paths],
        "format": checkpoint.format,
        "architecture": {**config.to_dict(), "num_parameters": config.num_parameters},
        "parameters": config.num_parameters,
        "context": config.max_position_embeddings,
        "tensors": dict(Counter(tensor.dtype for tensor in tensors)),
        "weight_bytes": sum(packed_nbytes(tensor.dtype, tensor.shape) for tensor in tensors),
        "kv_bytes_per_1k_tokens": kv_bytes(config, 1024, "bf16"),
        "sampling": asdict(generation),
        "chat_template": _has_template(checkpoint),
        "licence": _licence(entry, checkpoint),
    }


def _has_template(checkpoint: Checkpoint) -> bool:
    if checkpoint.folder is None:
        return "tokenizer.chat_template" in checkpoint.metadata
    from qwell.text.template import find_template

    return find_template(checkpoint.folder) is not None


def _licence(entry: Entry | None, checkpoint: Checkpoint) -> str:
    """The catalogue's word, else the file's own, else where to look."""
    if entry and entry.licence:
        return entry.licence
    if named := checkpoint.metadata.get("general.license"):
        return str(named)
    texts = sorted(checkpoint.folder.glob("LICENSE*")) if checkpoint.folder else []
    return f"see {texts[0]}" if texts else "unknown"


def _program(checkpoint: Checkpoint) -> str:
    """What NativeModel.listing() says; the checkpoint's shapes are enough for it."""
    from qwell.model.weights import build_weights
    from qwell.native.fuse import fuse, listing
    from qwell.native.record import record

    return listing(fuse(record(build_weights(checkpoint.config, checkpoint.tensors))))


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    program = facts.pop("program", [])
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<{_INDENT}}{_within(_text(name, value))}")
    for line in program:
        print(line)


def _within(value: str) -> str:
    """What is told of a fact, in lines of the terminal below one another; one line in a pipe. A
    path is never cut."""
    if not sys.stdout.isatty():
        return value
    width = max(shutil.get_terminal_size().columns - _INDENT, 20)
    lines = textwrap.wrap(value, width, break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * _INDENT).join(lines)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if "bytes" in name:
        return f"{value / 1e6:,.1f} MB"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inner(inner)}" for key, inner in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)


def _inner(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
