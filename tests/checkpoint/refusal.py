"""What every refusal must be: typed, one line, naming the file, quick, and cheap in memory."""

from __future__ import annotations

import gc
import time
import tracemalloc
from pathlib import Path

import pytest

from qwell.checkpoint import open_checkpoint
from qwell.errors import CheckpointError, NotFoundError, QwellError

MOST_BYTES, MOST_SECONDS = 64 << 20, 1.0


def refused(
    path: Path, *words: str, kind: type[QwellError] = CheckpointError, file: str | None = None
) -> str:
    """Opens the path, asserts a sound refusal holding all the words, and gives its text."""
    gc.freeze()  # what other tests left alive is not walked again for every object of this one
    started = time.process_time()  # of this process: a busy neighbour is no fault
    with pytest.raises(kind) as caught:
        open_checkpoint(path)
    seconds = time.process_time() - started
    gc.unfreeze()
    peak = peak_bytes(path)
    message = str(caught.value)
    for word in (*words, file or path.name):
        assert word in message, message
    assert "\n" not in message and len(message) < 600, message
    assert seconds < MOST_SECONDS and peak < MOST_BYTES, (seconds, peak)
    return message


def peak_bytes(path: Path) -> int:
    """Most memory a refusal holds; measured in a second run, because tracing is slow."""
    tracemalloc.start()
    try:
        with pytest.raises(QwellError):
            open_checkpoint(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def opens_or_refuses(path: Path) -> bool:
    """True if the path opens and every tensor and value can be read; no error but ours escapes."""
    try:
        checkpoint = open_checkpoint(path)
        for key in checkpoint.metadata:
            checkpoint.metadata[key]
        for tensor in checkpoint.tensors.values():
            assert tensor.float32().shape == tensor.shape
    except (CheckpointError, NotFoundError) as error:
        assert "\n" not in str(error)
        return False
    return True
