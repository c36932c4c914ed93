"""A MODEL the user named becomes an LLM, with a view of what takes time on the way.

A model that is not here is pulled with a bar; the first load packs the weights and shows how far
it is. QWELL_BACKEND=reference takes NumPy in place of the native core. Everything heavy is imported
here, after the options have been checked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwell.cli.terminal import Progress
from qwell.errors import NotFoundError, TextError

if TYPE_CHECKING:
    from qwell.engine.llm import LLM
    from qwell.engine.memory import Room
    from qwell.text import ChatTemplate


def fetch(model: str) -> None:
    """Pulls `model` if it is neither a path nor on this machine."""
    from qwell.hub.catalogue import lookup
    from qwell.hub.resolve import find, local_model, resolve

    if local_model(model) or find(lookup(model)):
        return
    from qwell.cli.pull import reporter

    with reporter() as shown:
        resolve(model, reporter=shown)


def open_model(
    model: str,
    *,
    ctx: int | None,
    threads: int | None,
    int8: bool = False,
    kv_dtype: str | None = None,
    adapter: str | None = None,
    template: ChatTemplate | None = None,
    room: Room | None = None,
) -> LLM:
    """Loads `model`; `template`, if given, takes the place of its own."""
    from qwell.engine.load import load

    fetch(model)
    progress = Progress("packing the weights (first time only)", in_pipes=True)
    backend = os.environ.get("QWELL_BACKEND") or "native"
    try:
        llm = load(
            model,
            ctx=ctx,
            num_threads=threads,
            backend=backend,
            int8=int8,
            kv_dtype=kv_dtype,
            adapter=adapter,
            room=room,
            progress=progress,
        )
    finally:
        progress.close()
    if template is not None:
        llm.template = template
    return llm


def check_sampling(sampling: Mapping[str, Any]) -> None:
    """Raises UsageError for values no model can take, before time is spent on loading one."""
    from qwell.engine.types import SamplingParams

    SamplingParams(**sampling)


def read_template(path: str) -> ChatTemplate:
    """The Jinja chat template in a file. Raises TextError if it is none."""
    from qwell.text import ChatTemplate

    template = ChatTemplate(read_text(path))
    template.check()
    return template


def read_text(path: str) -> str:
    """A UTF-8 text file of the user's."""
    from qwell.text.plain import file_text

    try:
        return file_text(Path(path).read_bytes())
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 (byte {error.start}): give a text file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotFoundError(f"{path} cannot be read ({reason}): check the path") from error
