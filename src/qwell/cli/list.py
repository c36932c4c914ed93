"""`qwell list`: the models on this machine, as a table or as JSON. It reads only qwell's store."""

from __future__ import annotations

import json as json_module
import sys
from typing import Any

from qwell.cli.pull import size_text
from qwell.hub import packs, place, store
from qwell.hub.packs import Pack
from qwell.hub.store import StoredModel

_NO_WIDTH = 10_000


def list_models(json: bool = False) -> None:
    """Prints every model of the store with its size, source and date; unfinished pulls too, and
    packed weights of models that are not in the store."""
    models = [_facts(model) for model in store.models()]
    models += [_pack_facts(pack) for pack in packs.every_pack() if not _is_of_the_store(pack)]
    if json:
        print(json_module.dumps(models, indent=1))
        return
    if models:
        _print_table(models)
    else:
        print("no models yet: run 'qwell pull qwen2.5-coder:0.5b'")
    packed = place.disk_bytes(packs.packed_dir())
    if packed:
        print(f"packed weights (made again when needed): {size_text(packed)}")


def _facts(model: StoredModel) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "name": manifest.name if manifest else model.key,
        "complete": manifest is not None,
        "packed_only": False,
        "files_gone": False,
        "disk_bytes": model.disk_bytes,
        "source": manifest.source if manifest else None,
        "date": manifest.date if manifest else None,
        "path": str(store.model_dir(model.key)),
    }


def _is_of_the_store(pack: Pack) -> bool:
    return not pack.is_left and any(store.models_dir() in source.parents for source in pack.sources)


def _pack_facts(pack: Pack) -> dict[str, Any]:
    return {
        "name": pack.name,
        "complete": False,
        "packed_only": True,
        "files_gone": pack.is_left,
        "disk_bytes": pack.disk_bytes,
        "source": None,
        "date": None,
        "path": str(packs.packed_dir() / pack.key),
    }


def _source(facts: dict[str, Any]) -> str:
    if facts["packed_only"]:
        where = "gone: rm" if facts["files_gone"] else "elsewhere"
        return f"packed weights alone, its files are {where}"
    return facts["source"] or "unfinished: pull again to resume, or rm"


def _print_table(models: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_tty = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if is_tty else None, pad_edge=False)
    for heading in ("NAME", "SIZE", "SOURCE", "DATE"):
        table.add_column(heading, justify="right" if heading == "SIZE" else "left", overflow="fold")
    for facts in models:
        date = (facts["date"] or "")[:10]
        row = (facts["name"], size_text(facts["disk_bytes"]), _source(facts), date)
        table.add_row(*map(Text, row))
    # A pipe has no width: a name in two lines is one that no program finds.
    Console(width=None if is_tty else _NO_WIDTH).print(table)
