"""`qwell rm MODEL`: delete a model from qwell's store and what was packed from it.

Files of the user and of the Hugging Face cache are never touched; only qwell's packed copy of
their weights goes.
"""

from __future__ import annotations

import sys
from collections.abc import Container

from qwell.cli.pull import size_text
from qwell.errors import NotFoundError, UsageError
from qwell.hub import packs, store
from qwell.hub.catalogue import lookup
from qwell.hub.resolve import ResolvedModel, find, local_model


def rm(model: str, yes: bool = False) -> None:
    """Deletes `model`, finished or not, after asking (`yes`: without), and packed weights of it
    whose files are gone. Raises NotFoundError if qwell holds nothing of it, UsageError if there is
    nobody to ask."""
    stored = {held.key: held for held in store.models()}
    try:
        here = _here(model, stored)
    except (NotFoundError, UsageError):
        if not (freed := packs.remove_left(model)):
            raise
        print(f"packed weights of {model} deleted, {size_text(freed)} freed; its files were gone")
        return
    if isinstance(here, ResolvedModel):
        _rm_packed(model, here)
        return
    if not (yes or _agreed(f"delete {model} ({size_text(stored[here].disk_bytes)})?")):
        print("nothing was deleted")
        return
    waiting = lambda: print(f"waiting for a pull of {model}", file=sys.stderr)  # noqa: E731
    freed = store.remove(here, waiting) + packs.remove_left(model)
    print(f"{model} deleted, {size_text(freed)} freed")


def _here(model: str, stored: Container[str]) -> str | ResolvedModel:
    """The key of a model in the store, or the files of one that is somewhere else."""
    # An unfinished pull is listed by its folder's name, so that name is understood as well.
    if model in stored:
        return model
    if local := local_model(model):
        return local
    if (key := lookup(model).key) in stored:
        return key
    if elsewhere := find(lookup(model)):
        return elsewhere
    raise NotFoundError(f"{model} is not here: 'qwell list' shows what is")


def _rm_packed(model: str, owned_by_others: ResolvedModel) -> None:
    freed = packs.remove_packed(owned_by_others.paths) + packs.remove_left(model)
    if not freed:
        raise NotFoundError(
            f"qwell's store holds nothing of {model}; {owned_by_others.paths[0]} is not qwell's "
            "to delete"
        )
    print(f"packed weights of {model} deleted, {size_text(freed)} freed; its own files stay")


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("rm asks before it deletes and there is no terminal: add --yes")
    return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
