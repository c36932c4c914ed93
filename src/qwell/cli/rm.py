"""`qwell rm MODEL`: delete a model from qwell's store and what was packed from it.

Files of the user and of the Hugging Face cache are never touched; only qwell's packed copy of
their weights goes.
"""

from __future__ import annotations

import sys

from qwell.cli.pull import size_text
from qwell.errors import NotFoundError, UsageError
from qwell.hub import store
from qwell.hub.catalogue import lookup
from qwell.hub.resolve import ResolvedModel, find, local_model


def rm(model: str, yes: bool = False) -> None:
    """Deletes `model`, finished or not, after asking (`yes`: without). Raises NotFoundError if
    qwell holds nothing of it, UsageError if there is nobody to ask."""
    stored = {held.key: held for held in store.models()}
    # An unfinished pull is listed by its folder's name, so that name is understood as well.
    local = None if model in stored else local_model(model)
    if local:
        _rm_packed(model, local)
        return
    key = model if model in stored else lookup(model).key
    if key not in stored:
        elsewhere = find(lookup(model))
        if not elsewhere:
            raise NotFoundError(f"{model} is not here: 'qwell list' shows what is")
        _rm_packed(model, elsewhere)
        return
    if not (yes or _agreed(f"delete {model} ({size_text(stored[key].disk_bytes)})?")):
        print("nothing was deleted")
        return
    waiting = lambda: print(f"waiting for a pull of {model}", file=sys.stderr)  # noqa: E731
    print(f"{model} deleted, {size_text(store.remove(key, waiting))} freed")


def _rm_packed(model: str, owned_by_others: ResolvedModel) -> None:
    freed = store.remove_packed(owned_by_others.paths)
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
