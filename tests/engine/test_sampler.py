"""The core's sampler against its slow twin, token for token, and both against plain definitions."""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwell import _core
from qwell.engine.sampler import largest, log_softmax_at, new_sampler, sample
from qwell.engine.types import SamplingParams
from qwell.errors import QwellError
from tests.engine import slow_sampler as slow
from tests.engine.slow_sampler import SlowSampler

ISAS = _core.isa_available()
CODES = {slow.NOT_FINITE: "not finite", slow.NOTHING_LEFT: "masked"}
Mask = NDArray[np.int32]


def make(vocab: int, prompt: tuple[int, ...] = (0,), seed: int = 7, **params: Any) -> Any:
    extra = {key: params.pop(key) for key in ("stop_ids", "choice") if key in params}
    return new_sampler(SamplingParams(**params), prompt, vocab_size=vocab, seed=seed, **extra)


def one(sampler: Any, logits: Any, mask: Mask | None = None) -> int:
    """One token that the reply gets."""
    token = sample([sampler], logits[None], [mask])[0]
    if isinstance(token, QwellError):
        raise token
    sampler.push(token)
    return token


def mask_of(allowed: Any) -> Mask:
    bits = np.packbits(np.asarray(allowed, bool), bitorder="little")
    return np.pad(bits, (0, -len(bits) % 4)).view(np.int32)


logits_of = {
    "ties": lambda rng, n: rng.integers(-24, 24, n) / 4,
    "flat": lambda rng, n: rng.normal(0, 1e-6, n),
    "equal": lambda rng, n: np.zeros(n),
    "peaked": lambda rng, n: rng.standard_exponential(n) * 4,
    "holes": lambda rng, n: np.where(rng.random(n) < 0.5, -np.inf, rng.normal(0, 3, n)),
    "wide": lambda rng, n: rng.normal(0, 1e30, n),
    "zeros": lambda rng, n: rng.choice([0.0, -0.0, -1e-30], n),
    "broken": lambda rng, n: rng.choice(
        [0.0, np.nan, np.inf, -np.inf], n, p=[0.97, 0.01, 0.01, 0.01]
    ),
}
masks_of = {
    "none": lambda rng, n: None,
    "half": lambda rng, n: mask_of(rng.random(n) < 0.5),
    "one": lambda rng, n: mask_of(np.arange(n) == rng.integers(n)),
    "nothing": lambda rng, n: mask_of(np.zeros(n)),
}
params_of = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0, 1e-5, 0.3, 0.7, 1.0, 2.5, 100]),
        "top_k": st.sampled_from([0, 1, 2, 20, 300, 10**6]),
        "top_p": st.sampled_from([1.0, 0.9, 0.5, 1e-9]),
        "min_p": st.sampled_from([0.0, 1e-12, 0.05, 0.6, 1.0]),
        "repetition_penalty": st.sampled_from([1.0, 1.1, 0.5]),
        "presence_penalty": st.sampled_from([0.0, 0.5, -2.0]),
        "frequency_penalty": st.sampled_from([0.0, 0.25]),
        "logit_bias": st.dictionaries(st.integers(0, 4), st.sampled_from([-100.0, 3.0, 0.3])),
        "min_tokens": st.sampled_from([0, 2]),
    }
)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([5, 100, 128, 1000, 2611]),
    st.sampled_from(sorted(logits_of)),
    st.sampled_from(sorted(masks_of)),
    params_of,
    st.integers(-(2**63), 2**64 - 1),
    st.integers(0, 2**32),
)
def test_the_core_chooses_what_the_slow_twin_chooses(
    vocab: int, kind: str, masked: str, params: dict[str, Any], seed: int, data: int
) -> None:
    rng, p = np.random.default_rng(data), SamplingParams(**params)
    prompt = tuple(rng.integers(0, vocab + 9, 6).tolist())  # ids of padding rows among them
    keys: dict[str, Any] = {"vocab_size": vocab, "seed": seed, "stop_ids": (1, 4), "choice": 1}
    twin, samplers = SlowSampler(p, prompt, **keys), []
    for isa in ISAS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QWELL_FORCE_ISA", isa)
            samplers.append(new_sampler(p, prompt, **keys))
    for _ in range(3):
        row = np.full(vocab + 9, 1e9, np.float32)
        row[:vocab] = logits_of[kind](rng, vocab)
        mask, before = masks_of[masked](rng, vocab), row.tobytes()
        with np.errstate(all="ignore"):
            expected = twin.sample(row, mask)
        rows = np.tile(row, (len(samplers), 1))
        found = _core.sample(samplers, rows, [mask] * len(samplers))
        assert found == [expected] * len(samplers)
        assert row.tobytes() == before
        if expected >= 0:
            for sampler in (twin, *samplers):
                sampler.push(expected)


@pytest.mark.parametrize("kind", ["flat", "equal", "peaked", "ties"])
@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"top_k": 20, "top_p": 0.8, "temperature": 0.7, "repetition_penalty": 1.05},
        {"top_k": 5000, "top_p": 0.9},
        {"top_p": 0.3, "temperature": 1.5},
        {"min_p": 0.05},
    ],
)
def test_a_whole_vocabulary(kind: str, params: dict[str, Any]) -> None:
    vocab, rng = 151_665, np.random.default_rng(3)
    row = np.full(151_936, 100, np.float32)
    row[:vocab] = logits_of[kind](rng, vocab)
    p, prompt = SamplingParams(**params), tuple(range(0, 3000, 7))
    sampler = new_sampler(p, prompt, vocab_size=vocab, seed=1)
    twin = SlowSampler(p, prompt, vocab_size=vocab, seed=1)
    for mask in (None, mask_of(rng.random(vocab) < 0.9)):
        assert sample([sampler], row[None], [mask]) == [twin.sample(row, mask)]


def test_rows_of_one_call_know_nothing_of_each_other() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 3, (5, 700)).astype(np.float32)
    rows[2, 5] = np.nan
    masks = [None, mask_of(rng.random(700) < 0.1), None, mask_of(np.zeros(700)), None]
    params: list[dict[str, Any]] = [{}, {"top_k": 9}, {}, {}, {"temperature": 0}]
    samplers = [make(700, seed=i, **each) for i, each in enumerate(params)]
    together = sample(samplers, rows, masks)
    for i, token in enumerate(together):
        alone = sample([samplers[i]], rows[i : i + 1], [masks[i]])[0]
        assert str(token) == str(alone)
    assert "not finite at position 1" in str(together[2])
    assert "masked at position 1" in str(together[3])
    assert sample([], rows[:0]) == []


def test_wrong_shapes_are_refused() -> None:
    rows = np.zeros((1, 100), np.float32)
    for samplers, masks in (
        ([make(100)] * 2, [None] * 2),
        ([make(101)], [None]),
        ([make(100)], []),
        ([make(100)], [np.zeros(3, np.int32)]),
        ([None], [None]),
    ):
        with pytest.raises(ValueError, match=r"row|mask"):
            _core.sample(samplers, rows, masks)
    with pytest.raises(ValueError, match="vocabulary"):
        make(2**23 + 1)


@pytest.mark.parametrize(
    "rule",
    [{"top_p": 0.0}, {"min_p": 2.0}, {"top_k": -1}, {"temperature": -1.0}, {"temperature": np.nan}],
)
def test_a_rule_without_an_end_is_refused(rule: dict[str, float]) -> None:
    """SamplingParams never makes one."""
    whole: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "top_k": 0}
    rest: dict[str, Any] = {"repetition": 1.0, "presence": 0.0, "frequency": 0.0, "seed": 1}
    rest |= {"choice": 0, "min_tokens": 0, "bias": [], "stop_ids": []}
    with pytest.raises(ValueError, match=r"temperature|top_p"):
        _core.Sampler(vocab=9, prompt=np.zeros(0, np.int32), **(whole | rule), **rest)


def test_a_forked_process_samples_with_threads_of_its_own() -> None:
    script = """
import os, signal
import numpy as np
from qwell.engine.sampler import new_sampler, sample
from qwell.engine.types import SamplingParams
samplers = [new_sampler(SamplingParams(), [1], vocab_size=99, seed=i) for i in range(8)]
rows = np.random.default_rng(0).normal(0, 3, (8, 99)).astype(np.float32)
want = sample(samplers, rows, num_threads=2)
if os.fork() == 0:
    signal.alarm(20)
    os._exit(7 if sample(samplers, rows, num_threads=2) == want else 8)
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == 7


def test_weights_are_the_exponential() -> None:
    """The slow twin's own weights, without which equal choices would prove nothing."""
    x = np.linspace(-30, 0, 100_001).astype(np.float32)
    for temperature in (0.3, 1.0, 7.0):
        exact = np.exp(x.astype(np.float64) / temperature) * 2**30
        found = slow.weights(x, 0, temperature)
        assert found[-1] == 2**30
        # Half a unit, and the argument's rounding in float32: 32 * 2^-24 at the far end.
        assert np.all(np.abs(found - exact) <= 0.5 + 4e-6 * exact)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 3100), st.integers(0, 2**32), st.sampled_from([3, 500]))
def test_largest_is_the_head_of_a_stable_sort(size: int, n: int, seed: int, values: int) -> None:
    x = np.random.default_rng(seed).integers(0, values, size).astype(np.float32)
    assert largest(x, n) == slow.largest(x, n).tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_largest_refuses_what_has_no_order(bad: float) -> None:
    x = np.full(1000, bad, np.float32)
    for n in (1, 5, 1000):
        with pytest.raises(ValueError, match="NaN"):
            largest(x, n)


def test_largest_of_a_whole_vocabulary() -> None:
    x = np.random.default_rng(0).normal(0, 3, 151_665).astype(np.float32)
    for n in (1, 20, 1000, 5000):
        assert largest(x, n) == slow.largest(x, n).tolist()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"top_k": 4},
        {"top_p": 0.7},
        {"top_p": 0.05},
        {"min_p": 0.3},
        {"top_k": 5, "top_p": 0.6, "min_p": 0.1},
    ],
)
@pytest.mark.parametrize("keyed_by", ["position", "seed", "choice"])
def test_frequencies_follow_the_distribution(params: dict[str, Any], keyed_by: str) -> None:
    """What the filters keep, by sorting; then a chi-square test. The seeds are fixed."""
    draws, temperature = 5_000, 0.8
    logits = np.array([2.0, -1.0, 0.5, 0.5, 1.7, -2.0, 0.0, 1.0], np.float32)
    p = np.exp(logits / temperature)
    order = np.argsort(-p, kind="stable")[: params.get("top_k", 8)]
    ahead = (np.cumsum(p[order]) - p[order]) / p[order].sum()
    kept = order[(ahead < params.get("top_p", 1)) & (p[order] >= params.get("min_p", 0) * p.max())]
    if keyed_by == "position":
        sampler = make(8, temperature=temperature, **params)
        found = [one(sampler, logits) for _ in range(draws)]
    else:
        found = [
            one(make(8, temperature=temperature, **params, **{keyed_by: i}), logits)
            for i in range(draws)
        ]
    counts = np.bincount(found, minlength=8)
    assert counts[kept].sum() == draws
    expected = draws * p[kept] / p[kept].sum()
    assert ((counts[kept] - expected) ** 2 / expected).sum() < 29.9  # 7 degrees: p = 1e-4


def test_random_numbers_are_the_documented_hash() -> None:
    # The first three outputs of splitmix64 seeded with 0 are published test values.
    assert [slow.mix(i * 0x9E3779B97F4A7C15 & 2**64 - 1) for i in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]
    keys = [(s, p, c, a) for s in range(10) for p in range(20) for c in range(5) for a in range(3)]
    numbers = [slow.bits(*key) * 2.0**-53 for key in keys]
    assert len(set(numbers)) == 3000
    assert 0 <= min(numbers) < 0.01 and 0.99 < max(numbers) < 1
    assert slow.bits(-1, 0) == slow.bits(2**64 - 1, 0)


def test_penalties_are_their_formulas() -> None:
    """Bias, Hugging Face's repetition penalty, OpenAI's two, on logits a choice reads off."""
    logits = np.array([4.0, -1.0, 3.0, 3.9, 2.0], np.float32)
    sampler = make(5, prompt=(0, 1, 1), temperature=0, repetition_penalty=2.0)
    assert [one(sampler, logits) for _ in range(4)] == [3, 2, 0, 0]  # 4/2; then 3.9/2; 3/2
    sampler = make(5, prompt=(0,), temperature=0, presence_penalty=1.0, frequency_penalty=0.5)
    assert [one(sampler, logits) for _ in range(5)] == [0, 3, 2, 0, 3]  # a prompt counts not
    assert one(make(5, temperature=0, logit_bias={1: 6.0}), logits) == 1


def test_ties_go_to_the_lowest_id() -> None:
    flat = np.zeros(500, np.float32)
    assert one(make(500, temperature=0), flat) == 0
    assert {one(make(500, seed=s, top_k=1), flat) for s in range(20)} == {0}
    assert {one(make(500, seed=s, top_k=3), flat) for s in range(60)} == {0, 1, 2}
    assert {one(make(500, seed=s, top_p=0.006), flat) for s in range(60)} == {0, 1, 2}


def test_padding_ids_are_never_chosen() -> None:
    logits = np.zeros(1000, np.float32)
    logits[900:] = 50
    for params in ({"temperature": 0}, {"temperature": 100}, {"top_k": 5}, {"top_p": 0.9}):
        assert one(make(900, **params), logits) < 900


def test_stop_ids_are_masked_until_min_tokens() -> None:
    logits = np.array([0, 9, 8, 1], np.float32)
    sampler = make(4, temperature=0, min_tokens=2, stop_ids=(1, 2, 999))
    assert [one(sampler, logits) for _ in range(3)] == [3, 3, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("params", [{"temperature": 0}, {"top_k": 2}, {}])
@pytest.mark.parametrize("at", [0, 123, 299])
def test_logits_that_are_not_finite_end_the_request(
    bad: float, params: dict[str, Any], at: int
) -> None:
    logits = np.zeros(300, np.float32)
    logits[at] = bad
    for mask in (None, mask_of(np.arange(300) == 7)):  # a fault shows although it is masked
        with pytest.raises(QwellError, match=r"not finite at position 1.*verify"):
            one(make(300, **params), logits, mask)


def test_nothing_left_to_choose() -> None:
    with pytest.raises(QwellError, match="masked"):
        one(make(2, min_tokens=1, stop_ids=(0, 1)), np.zeros(2, np.float32))


def test_tiny_and_huge_temperatures() -> None:
    logits = np.array([80, -80, 79], np.float32)
    assert {one(make(3, seed=s, temperature=1e-5), logits) for s in range(50)} == {0}
    assert {one(make(3, seed=s, temperature=100), logits) for s in range(50)} == {0, 1, 2}


@pytest.mark.parametrize("isa", ISAS)
def test_log_softmax_is_of_the_raw_logits(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(2).normal(0, 5, 5000).astype(np.float32)
    exact = x.astype(np.float64) - x.max()
    exact -= np.log(np.exp(exact).sum())
    best = log_softmax_at(x, [0, 17, 4999])
    assert np.allclose(best, exact[[0, 17, 4999]], atol=1e-6)
    monkeypatch.setenv("QWELL_FORCE_ISA", isa)
    assert log_softmax_at(x, [0, 17, 4999]).tolist() == best.tolist()


def test_numbers_of_numpy_are_numbers() -> None:
    params: dict[str, Any] = {
        "temperature": np.float32(0.5),
        "top_k": np.int64(3),
        "min_tokens": np.int32(1),
        "logit_bias": {1: np.float32(2)},
    }
    assert one(make(4, seed=np.int64(-5), **params), np.zeros(4, np.float32)) in range(4)


def test_speed() -> None:
    """Ten times the bar (0.2 ms for a row): only a pass too many, or a sort, can fail it."""
    row = np.random.default_rng(0).normal(0, 1e-3, (1, 151_936)).astype(np.float32)
    for params in ({"temperature": 0}, {"top_p": 0.8}, {"top_k": 20, "repetition_penalty": 1.05}):
        sampler, best = make(151_665, **params), 1.0
        for _ in range(20):
            begin = perf_counter()
            sample([sampler], row)
            best = min(best, perf_counter() - begin)
        assert best < 0.002
