"""The sampler against slow definitions that sort everything and loop over everything."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qwell.engine import sampler as module
from qwell.engine.sampler import Sampler, largest, log_softmax_at, uniform
from qwell.engine.types import SamplingParams
from qwell.errors import QwellError

CLOSE = 1e-5  # the sampler may weigh in float32: a border nearer than this proves nothing


def make(vocab: int, prompt: tuple[int, ...] = (0,), seed: int = 7, **params: Any) -> Sampler:
    extra = {key: params.pop(key) for key in ("stop_ids", "choice") if key in params}
    return Sampler(SamplingParams(**params), prompt, vocab_size=vocab, seed=seed, **extra)


def slow_logits(logits: list[float], p: SamplingParams, prompt: list[int], out: list[int]) -> Any:
    """Bias, Hugging Face's repetition penalty, OpenAI's two penalties, each as its formula."""
    x = [v + p.logit_bias.get(i, 0.0) for i, v in enumerate(logits)]
    for i in {*prompt, *out}:
        x[i] = x[i] / p.repetition_penalty if x[i] > 0 else x[i] * p.repetition_penalty
    return [
        v - out.count(i) * p.frequency_penalty - (i in out) * p.presence_penalty
        for i, v in enumerate(x)
    ]


def slow_choice(x: list[float], p: SamplingParams, u: float) -> int:
    """Sorts all, then cuts and draws in float64. Skips the example where a border is too close."""
    order = sorted(range(len(x)), key=lambda i: (-np.float32(x[i]), i))
    if p.temperature == 0:
        return order[0]
    weights = {i: math.exp((x[i] - x[order[0]]) / p.temperature) for i in order}
    kept = order[: p.top_k] if p.top_k else order
    whole, mass, head = sum(weights[i] for i in kept), 0.0, []
    for i in kept:
        if p.top_p < 1 and head:
            assume(abs(mass / whole - p.top_p) > CLOSE)
            if mass / whole >= p.top_p:
                break
        head.append(i)
        mass += weights[i]
    kept = [i for i in head if weights[i] >= p.min_p]
    if p.min_p:
        assume(all(abs(weights[i] - p.min_p) > CLOSE for i in head))
    if p.top_k == 0 and p.top_p == 1 and p.min_p == 0:
        kept = sorted(kept)  # nothing cut: drawn in the order of ids
    whole, mass = sum(weights[i] for i in kept), 0.0
    for i in kept:
        mass += weights[i] / whole
        assume(abs(mass - u) > CLOSE)
        if mass > u:
            return i
    return kept[-1]


small = st.integers(-24, 24).map(lambda n: n / 4)  # many ties
settings_of_params = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0, 0.3, 0.7, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 1, 2, 5, 50]),
        "top_p": st.sampled_from([1.0, 0.9, 0.5, 0.01]),
        "min_p": st.sampled_from([0.0, 0.05, 0.6, 1.0]),
        "repetition_penalty": st.sampled_from([1.0, 1.1, 0.5, 2.0]),
        "presence_penalty": st.sampled_from([0.0, 0.5, -2.0]),
        "frequency_penalty": st.sampled_from([0.0, 0.25, 2.0]),
        "logit_bias": st.dictionaries(st.integers(0, 4), st.sampled_from([-100.0, 3.0, 0.5])),
    }
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(small, min_size=5, max_size=40),
    st.lists(st.integers(0, 4), min_size=1, max_size=6),
    settings_of_params,
    st.integers(0, 2**64 - 1),
)
def test_equals_the_slow_definition(
    logits: list[float], prompt: list[int], params: dict[str, Any], seed: int
) -> None:
    p, out = SamplingParams(**params), []
    sampler = Sampler(p, prompt, vocab_size=len(logits), seed=seed)
    for _ in range(4):
        row = np.array(logits, np.float32)
        expected = slow_choice(
            slow_logits(logits, p, prompt, out), p, uniform(seed, len(prompt) + len(out))
        )
        out.append(sampler.sample(row))
        assert out[-1] == expected
        assert row.tolist() == pytest.approx(logits)  # the model's numbers stay as they are


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 3100), st.integers(0, 2**32), st.sampled_from([3, 500]))
def test_largest_is_the_head_of_a_stable_sort(size: int, n: int, seed: int, values: int) -> None:
    x = np.random.default_rng(seed).integers(0, values, size).astype(np.float32)
    assert largest(x, n).tolist() == np.argsort(-x, kind="stable")[:n].tolist()


def test_largest_of_a_whole_vocabulary() -> None:
    x = np.random.default_rng(0).normal(0, 3, 151_665).astype(np.float32)
    for n in (1, 20, 1000, 5000):
        assert largest(x, n).tolist() == np.argsort(-x, kind="stable")[:n].tolist()


@pytest.mark.parametrize("params", [{"top_p": 0.95}, {"min_p": 0.001}, {"top_p": 0.99999999}])
def test_filters_that_keep_more_than_the_first_head(params: dict[str, float]) -> None:
    logits = np.random.default_rng(1).normal(0, 1, 20_000).astype(np.float32)
    p = SamplingParams(**params)
    ids, weights = module._head(logits, logits.max(), p)
    order = np.argsort(-logits, kind="stable")
    exact = np.exp(logits[order].astype(np.float64) - logits.max())
    if p.min_p:
        expected = int((exact >= p.min_p).sum())
    else:
        expected = int(np.searchsorted(np.cumsum(exact), p.top_p * exact.sum())) + 1
    assert abs(len(ids) - expected) <= 2  # float32 weights at the border
    assert ids.tolist() == order[: len(ids)].tolist()
    assert np.allclose(weights, exact[: len(ids)], rtol=1e-5)
    assert len(ids) > 256


@pytest.mark.parametrize("params", [{}, {"top_k": 8}, {"top_p": 0.999999}, {"min_p": 1e-9}])
@pytest.mark.parametrize("keyed_by", ["position", "seed", "choice"])
def test_frequencies_follow_the_distribution(params: dict[str, Any], keyed_by: str) -> None:
    draws, temperature = 5_000, 0.8
    logits = np.array([2.0, -1.0, 0.5, 0.5, 1.7, -2.0, 0.0, 1.0], np.float32)
    p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    if keyed_by == "position":
        sampler = make(8, temperature=temperature, **params)
        found = [sampler.sample(logits) for _ in range(draws)]
    else:
        found = [
            make(8, temperature=temperature, **params, **{keyed_by: i}).sample(logits)
            for i in range(draws)
        ]
    counts = np.bincount(found, minlength=8)
    chi2 = ((counts - draws * p) ** 2 / (draws * p)).sum()
    assert chi2 < 29.9  # 7 degrees of freedom, p = 1e-4; the seeds are fixed


def test_random_numbers_are_the_documented_hash() -> None:
    # The first three outputs of splitmix64 seeded with 0 are published test values.
    assert [module._mix(i * 0x9E3779B97F4A7C15 & module._MASK64) for i in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]
    numbers = [uniform(s, p, c) for s in range(10) for p in range(20) for c in range(5)]
    assert len(set(numbers)) == 1000
    assert 0 <= min(numbers) < 0.01 and 0.99 < max(numbers) < 1
    assert uniform(-1, 0) == uniform(2**64 - 1, 0)


def test_ties_go_to_the_lowest_id() -> None:
    flat = np.zeros(500, np.float32)
    assert make(500, temperature=0).sample(flat) == 0
    assert {make(500, seed=s, top_k=1).sample(flat) for s in range(20)} == {0}
    assert {make(500, seed=s, top_k=3).sample(flat) for s in range(60)} == {0, 1, 2}


def test_padding_ids_are_never_chosen() -> None:
    logits = np.zeros(1000, np.float32)
    logits[900:] = 50
    for params in ({"temperature": 0}, {"temperature": 100}, {"top_k": 5}, {"top_p": 0.9}):
        assert make(900, **params).sample(logits) < 900


def test_stop_ids_are_masked_until_min_tokens() -> None:
    logits = np.array([0, 9, 8, 1], np.float32)
    sampler = make(4, temperature=0, min_tokens=2, stop_ids=(1, 2, 999))
    assert [sampler.sample(logits) for _ in range(3)] == [3, 3, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("params", [{"temperature": 0}, {"top_k": 2}, {}])
def test_logits_that_are_not_finite_end_the_request(bad: float, params: dict[str, Any]) -> None:
    logits = np.zeros(300, np.float32)
    logits[123] = bad
    with pytest.raises(QwellError, match=r"not finite at position 1.*verify"):
        make(300, **params).sample(logits)


def test_nothing_left_to_choose() -> None:
    with pytest.raises(QwellError, match="masked"):
        make(2, min_tokens=1, stop_ids=(0, 1)).sample(np.zeros(2, np.float32))


def test_tiny_and_huge_temperatures() -> None:
    logits = np.array([80, -80, 79], np.float32)
    assert {make(3, seed=s, temperature=1e-5).sample(logits) for s in range(50)} == {0}
    assert {make(3, seed=s, temperature=100).sample(logits) for s in range(50)} == {0, 1, 2}


def test_log_softmax_is_of_the_raw_logits() -> None:
    x = np.random.default_rng(2).normal(0, 5, 5000).astype(np.float32)
    exact = x.astype(np.float64) - x.max()
    exact -= np.log(np.exp(exact).sum())
    ids = np.array([0, 17, 4999])
    assert np.allclose(log_softmax_at(x, ids), exact[ids], atol=1e-6)
