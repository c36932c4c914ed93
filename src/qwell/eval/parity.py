"""Is the native program the model its file describes? `qwell verify`, measured.

The truth is the float32 reference over the dequantised weights of the same file. The program is
measured twice, because it has two formulas: through prefill (whole windows as prompt rows) and
token by token through decode (all but the first token of a window as reply rows).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwell.checkpoint import open_adapter, open_checkpoint
from qwell.checkpoint.tensor import Checkpoint
from qwell.engine.llm import LLM
from qwell.engine.load import load
from qwell.engine.packed import packed_folder
from qwell.engine.types import Backend
from qwell.errors import StorageError, UsageError
from qwell.eval.divergence import F32, Divergence, Rows, compare, summarise
from qwell.eval.recorded import record
from qwell.eval.report import Report
from qwell.eval.text import EvalText, find_text
from qwell.hub.resolve import resolve
from qwell.model import decoder
from qwell.model.batch import PAGE_SIZE, Batch
from qwell.model.reference import Reference
from qwell.model.weights import Weights, build_weights
from qwell.text.tokenizer import Tokenizer

I32 = NDArray[np.int32]
Progress = Callable[[str], None]
Logits = Iterator[tuple[I32, F32]]

_TOGETHER = 8  # windows that are held and decoded at once
_ROWS = 128  # output rows compared at once: 78 MB of logits each for a vocabulary of 151,936


def verify(
    model: str,
    *,
    windows: int = 8,
    window_tokens: int = 512,
    text: str | Path | None = None,
    num_threads: int | None = None,
    int8: bool = False,
    kv_dtype: str | None = None,
    adapter: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Loads `model` (what `qwell.load` takes) and measures both of its paths.

    text is a file, see `find_text` for None. The reference needs the memory of its largest matrix
    in float32 and about 12 s a window for a 0.5B on two cores. progress gets a line a stage. The
    report is kept beside the packed weights, where `qwell bench` finds it; one of a model with an
    adapter is not.
    Raises what `qwell.load` and `find_text` raise, UsageError for a text too short.
    """
    start = time.perf_counter()
    check_windows(windows, window_tokens)
    found = find_text(text)
    llm = load(
        model,
        ctx=window_tokens,
        num_threads=num_threads,
        int8=int8,
        kv_dtype=kv_dtype,
        adapter=adapter,
    )
    weights = _weights(open_checkpoint(resolve(model).paths), adapter)
    ids = cut_windows(llm.tokenizer, found, windows, window_tokens)
    paths = measure(weights, llm.backend, ids, progress)
    report = Report(
        model=llm.name + (f" with adapter {llm.adapter_id}" if adapter else ""),
        backend=_describe(llm.backend),
        text=found.name,
        text_sha256=found.sha256,
        windows=windows,
        window_tokens=window_tokens,
        paths=paths,
        seconds=time.perf_counter() - start,
    )
    if adapter is not None:
        return report
    try:
        record(packed_folder(resolve(model), int8=int8), report, kv_dtype or "bf16")
    except StorageError as error:  # the report itself is whole
        (progress or (lambda _: None))(f"not recorded for qwell bench: {error}")
    return report


def one_window(
    llm: LLM, checkpoint: Checkpoint, tokens: int, *, adapter: str | Path | None = None
) -> dict[str, Divergence]:
    """Both paths of a loaded model on one short window: a hint in seconds, not a verdict."""
    weights = _weights(checkpoint, adapter)
    return measure(weights, llm.backend, cut_windows(llm.tokenizer, find_text(None), 1, tokens))


def _weights(checkpoint: Checkpoint, adapter: str | Path | None) -> Weights:
    loras = None
    if adapter is not None:
        loras = open_adapter(Path(adapter).expanduser(), checkpoint.config).loras
    return build_weights(checkpoint.config, checkpoint.tensors, loras)


def _describe(backend: Any) -> str:
    threads = backend.num_threads
    kv = "" if backend.kv_dtype == "bf16" else f", {backend.kv_dtype} keys and values"
    return f"native, {backend.isa}, {threads} thread{'s' if threads > 1 else ''}{kv}"


class Truth:
    """The reference's answer for some windows, kept as final hidden states: logits for all rows of
    eight windows would be 2.5 GB, and the head gives any of them again."""

    def __init__(self, weights: Weights, windows: I32) -> None:
        self._ops, self._head = _LayerByLayer(weights.config), weights.lm_head
        batch = Batch.make(windows.tolist(), logits="all")
        self._hidden = decoder.hidden(self._ops, weights, batch)
        following = np.full_like(windows, -1)
        following[:, :-1] = windows[:, 1:]
        self._targets = following.reshape(-1)

    def compare(self, rows: I32, logits: F32) -> Rows:
        """`logits` [n, V] against the reference; row i is token i % n of window i // n."""
        expected = self._ops.linear(self._hidden[rows], self._head)
        return compare(expected, logits, self._targets[rows])


class _LayerByLayer(Reference):
    """Forgets the floats of a layer that has run, so a 7B is verified in the memory of its head."""

    def block(self, fn: Callable[..., F32], w: Any, *args: Any) -> F32:
        value = super().block(fn, w, *args)
        self._floats.clear()
        return value


def measure(
    weights: Weights, program: Backend, windows: I32, progress: Progress | None = None
) -> dict[str, Divergence]:
    """Both paths of `program` against the reference over `weights`, on windows [W, n]."""
    say = progress or (lambda _: None)
    found: dict[str, list[Rows]] = {path: [] for path in PATHS}
    for first in range(0, len(windows), _TOGETHER):
        group = windows[first : first + _TOGETHER]
        where = f"windows {first + 1}-{first + len(group)} of {len(windows)}"
        say(f"reference: {where}")
        truth = Truth(weights, group)
        for path, run in PATHS.items():
            say(f"{path}: {where}")
            found[path] += [truth.compare(rows, logits) for rows, logits in run(program, group)]
    return {path: summarise(Rows.join(parts)) for path, parts in found.items()}


def _prefill(program: Backend, windows: I32) -> Logits:
    """Every window as one prompt, in chunks of _ROWS."""
    W, n = windows.shape
    pages = _pages(windows)
    kv = program.new_kv(pages.size)
    for w in range(W):
        for start in range(0, n, _ROWS):
            ids = windows[w, start : start + _ROWS].tolist()
            batch = Batch.make(
                [ids], past=[start], prompt_len=[n], logits="all", kv=kv, pages=[pages[w].tolist()]
            )
            yield w * n + start + np.arange(len(ids), dtype=np.int32), program.step(batch)


def _decode(program: Backend, windows: I32) -> Logits:
    """All windows side by side, one token each a step: a row does not depend on its neighbours.
    Steps are gathered up to _ROWS, so that the reference's head is worth running."""
    W, n = windows.shape
    pages = _pages(windows)
    kv, table = program.new_kv(pages.size), pages.tolist()
    steps = max(1, _ROWS // W)
    for start in range(0, n, steps):
        at = range(start, min(start + steps, n))
        logits = [
            program.step(
                Batch.make(
                    windows[:, [t]].tolist(),
                    past=[t] * W,
                    prompt_len=[1] * W,
                    kv=kv,
                    pages=table,
                )
            )
            for t in at
        ]
        rows = [np.arange(W, dtype=np.int32) * n + t for t in at]
        yield np.concatenate(rows), np.concatenate(logits)


PATHS: dict[str, Callable[[Backend, I32], Logits]] = {"prefill": _prefill, "decode": _decode}


def _pages(windows: I32) -> I32:
    """[W, P]: every window has pages of its own."""
    W, n = windows.shape
    return np.arange(W * -(-n // PAGE_SIZE), dtype=np.int32).reshape(W, -1)


def check_windows(windows: int, window_tokens: int) -> None:
    """Raises UsageError for numbers nothing can be measured on."""
    if windows < 1 or window_tokens < 3:
        raise UsageError(
            f"{windows} windows of {window_tokens} tokens: "
            "verify needs at least 1 window of at least 3 tokens"
        )


def cut_windows(tokenizer: Tokenizer, text: EvalText, windows: int, window_tokens: int) -> I32:
    """The first windows * window_tokens tokens of the text, as [windows, window_tokens].

    Raises UsageError, with the counts, for a text too short."""
    need = windows * window_tokens
    # Eight characters a token suffice for prose, and the cut is far behind the last token used.
    ids = tokenizer.encode(text.text[: 8 * need + 1000])
    if len(ids) < need:
        ids = tokenizer.encode(text.text)
    if len(ids) < need:
        raise UsageError(
            f"{windows} windows of {window_tokens} need {need:,} tokens but {text.name} has "
            f"{len(ids):,}: give a longer text, or fewer or shorter windows"
        )
    return np.asarray(ids[:need], dtype=np.int32).reshape(windows, window_tokens)
