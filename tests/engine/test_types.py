"""Impossible parameters are refused with one line that says what is possible."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qwell.config import GenerationConfig
from qwell.engine.types import SamplingParams
from qwell.errors import UsageError

BAD: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -0.1}, "temperature is -0.1; it must be a number from 0 to 100"),
    ({"temperature": math.nan}, "temperature"),
    ({"temperature": "hot"}, "temperature is 'hot'"),
    ({"temperature": True}, "temperature is True"),
    ({"temperature": 1e-9}, "too small; use 0"),
    ({"temperature": None}, "temperature is None"),
    ({"top_p": 0}, "top_p must be above 0"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_k": -1}, "top_k is -1; it must be a whole number from 0"),
    ({"top_k": 2.0}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"repetition_penalty": 0}, "1 turns it off"),
    ({"repetition_penalty": 1e-40}, "1 turns it off"),
    ({"repetition_penalty": math.inf}, "repetition_penalty"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"logit_bias": {5: 101}}, "logit_bias is 101"),
    ({"logit_bias": {-5: 1}}, "a token id is -5"),
    ({"logit_bias": {"5": 1}}, "a token id is '5'"),
    ({"seed": 2**64}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"max_tokens": 0}, "max_tokens is 0; it must be a whole number from 1"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens 5 is more than max_tokens 4"),
    ({"stop": ("",)}, "stop must be strings"),
    ({"stop": (5,)}, "stop must be strings"),
    ({"stop_token_ids": (-1,)}, "a token id is -1"),
    ({"logprobs": -1}, "logprobs"),
    ({"logprobs": 101}, "logprobs"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_impossible_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        SamplingParams(**values)
    assert "\n" not in str(caught.value)


def test_a_lone_stop_string_is_one_stop() -> None:
    assert SamplingParams(stop="###").stop == ("###",)  # type: ignore[arg-type]
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]


def test_values_are_copied() -> None:
    bias = {1: 2.0}
    params = SamplingParams(logit_bias=bias)
    bias[2] = 3.0
    assert params.logit_bias == {1: 2.0}


def test_defaults_are_the_makers() -> None:
    made = GenerationConfig(temperature=0.6, top_p=0.9, top_k=30, repetition_penalty=1.05)
    params = SamplingParams.defaults(made, top_k=5, stop=("x",))
    assert params == SamplingParams(
        temperature=0.6, top_p=0.9, top_k=5, repetition_penalty=1.05, stop=("x",)
    )
    greedy = GenerationConfig(temperature=0.6, do_sample=False)
    assert SamplingParams.defaults(greedy).temperature == 0
    assert SamplingParams.defaults(greedy, temperature=0.5).temperature == 0.5


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown sampling parameter 'temprature'.*temperature"):
        SamplingParams.defaults(GenerationConfig(), temprature=1)
