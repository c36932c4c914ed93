"""The reference with a cache: chunked equals whole, a crowd equals being alone.

NumPy picks other matmul orders for other shapes, so equality here is to float32 rounding; bit
equality is the native program's contract.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qwell.model.batch import PAGE_SIZE, Batch
from qwell.model.reference import ReferenceModel
from tests.model.tiny import make_config, random_ids, random_model

F32 = NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> ReferenceModel:
    return random_model(make_config(tie_word_embeddings=False))


def whole(model: ReferenceModel, ids: list[int]) -> F32:
    return model.step(Batch.make([ids], logits="all"))


def close(actual: F32, expected: F32) -> None:
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-4)


def test_logits_are_of_a_size_a_bound_can_be_read_on(model: ReferenceModel) -> None:
    assert 1 < whole(model, random_ids(model.config, 50)).std() < 10


@pytest.mark.parametrize("cuts", [[1], [63], [64], [65, 66, 129], list(range(1, 150))])
def test_chunked_prefill_equals_whole(model: ReferenceModel, cuts: list[int]) -> None:
    ids = random_ids(model.config, 150)
    kv, logits = model.new_kv(3), []
    for lo, hi in zip([0, *cuts], [*cuts, 150]):
        batch = Batch.make([ids[lo:hi]], past=[lo], logits="all", kv=kv, pages=[[2, 0, 1]])
        logits.append(model.step(batch))
    close(np.concatenate(logits), whole(model, ids))


def test_mixed_batch_equals_each_alone(model: ReferenceModel) -> None:
    """Two sequences decode, one reads a chunk, one starts: none notices the others."""
    lens, news = [70, 3, 64, 0], [1, 1, 40, 9]
    ids = [random_ids(model.config, a + b, seed=s) for s, (a, b) in enumerate(zip(lens, news))]
    kv, pages = model.new_kv(8), [[7, 0], [3], [1, 6], [4]]
    for s in range(3):
        model.step(Batch.make([ids[s][: lens[s]]], kv=kv, pages=[pages[s]], logits="none"))
    fresh = [own[past:] for own, past in zip(ids, lens)]
    mixed = Batch.make(
        fresh, past=lens, prompt_len=[70, 2, 104, 9], logits="all", kv=kv, pages=pages
    )
    logits = model.step(mixed)
    for own, past, (lo, hi) in zip(ids, lens, mixed.spans()):
        close(logits[lo:hi], whole(model, own)[past:])


def test_last_is_the_last_row_of_all(model: ReferenceModel) -> None:
    ids = random_ids(model.config, 20)
    close(model.step(Batch.make([ids, ids[:7]])), whole(model, ids)[[19, 6]])


def test_a_token_sees_no_later_token(model: ReferenceModel) -> None:
    ids = random_ids(model.config, 12)
    other = [*ids[:6], *random_ids(model.config, 6, seed=5)]
    before, after = np.split(np.abs(whole(model, ids) - whole(model, other)).max(axis=1), [6])
    assert before.max() < 1e-4
    assert after.min() > 1e-2


def test_kv_pages_have_the_documented_shape(model: ReferenceModel) -> None:
    assert model.new_kv(5).data.shape == (2, 2, 5, PAGE_SIZE, 2, 8)
