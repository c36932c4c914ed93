"""The reference on the real 0.5B equals transformers, by the numbers kept in tests/golden."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qwell.checkpoint import open_checkpoint
from qwell.model.batch import Batch
from qwell.model.reference import ReferenceModel
from qwell.model.weights import build_weights

MAX_ERROR = 1e-3
GOLDEN = Path(__file__).parents[1] / "golden" / "qwen05.npz"


def error(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(actual - expected).max())


@pytest.mark.slow
@pytest.mark.weights
def test_reference_equals_transformers_on_the_real_model(
    official_gguf: Callable[[str], Path],
) -> None:
    checkpoint = open_checkpoint(official_gguf("0.5b"))
    with np.load(GOLDEN) as golden:
        ids, sample, best = golden["ids"], golden["sample"], golden["best"]
        sample_logits, best_logits = golden["sample_logits"], golden["best_logits"]
        logsumexp = golden["logsumexp"]
    assert ids.shape == (256,)
    model = ReferenceModel(build_weights(checkpoint.config, checkpoint.tensors))
    logits = model.step(Batch.make([ids.tolist()], logits="all"))
    assert error(logits[:, sample], sample_logits) <= MAX_ERROR
    assert error(np.take_along_axis(logits, best, axis=-1), best_logits) <= MAX_ERROR
    top = logits.max(axis=-1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=-1, dtype=np.float64))
    assert error(total, logsumexp) <= MAX_ERROR  # so no logit anywhere can be far too large
    assert error(top[:, 0], best_logits[:, 0]) <= MAX_ERROR
