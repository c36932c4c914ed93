"""Recipes hold what the reports publish; configs refuse what is impossible."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from qwell.errors import UsageError
from qwell.train import recipes
from qwell.train.config import PretrainConfig, SftConfig, helps


@pytest.mark.parametrize("size", recipes.SIZES)
def test_the_reports_values(size: str) -> None:
    first, long = recipes.pretrain(size).config, recipes.pretrain_long(size).config
    assert isinstance(first, PretrainConfig) and isinstance(long, PretrainConfig)
    assert (first.context, first.rope_theta) == (4096, 1e4)
    assert (long.context, long.rope_theta) == (32_768, 1e6)
    assert first.steps * first.tokens_per_step == pytest.approx(18e12, rel=1e-3)
    tuned = recipes.sft(size).config
    assert (tuned.epochs, tuned.context) == (2.0, 32_768)
    assert (tuned.lr, tuned.lr_final) == (7e-6, 7e-7)
    assert (tuned.weight_decay, tuned.clip_norm) == (0.1, 1.0)


def test_every_recipe_is_made_and_its_sources_are_fields() -> None:
    every = [*recipes.names("pretrain"), *recipes.names("sft")]
    assert len(every) == 47
    for name in every:
        found = recipes.find(name)
        assert found.name == name
        assert set(found.published) <= {field.name for field in fields(found.config)}


def test_lr_falls_with_size() -> None:
    rates = [recipes.pretrain(size).config.lr for size in recipes.SIZES]
    assert rates == sorted(rates, reverse=True) and 1e-4 < rates[-1] < rates[0] < 1e-3


def test_sizes_are_those_of_the_family() -> None:
    """Parameters without embeddings, from the model cards."""
    told = {"0.5b": 0.36e9, "1.5b": 1.31e9, "3b": 2.77e9, "7b": 6.53e9, "14b": 13.1e9}
    told |= {"32b": 31.0e9, "72b": 70.0e9}
    for size, parameters in told.items():
        assert recipes.SIZES[size].matrix_parameters == pytest.approx(parameters, rel=0.02)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"context": 1}, "context is 1"),
        ({"micro_batches": 0}, "micro_batches is 0"),
        ({"lr_final": 1.0}, "at most lr"),
        ({"schedule": "step"}, "one of cosine, wsd"),
        ({"steps": 0, "epochs": 0.0}, "steps is 0"),
        ({"weights": (1.0,), "data": ("a", "b")}, "1 weights for 2 data"),
        ({"qlora": "int8"}, "give --lora-rank"),
        ({"beta2": 1.0}, "beta2 is 1.0"),
        ({"decay_share": 0.0}, "decay_share"),
        ({"epochs": float("inf")}, "epochs is inf; it must be a finite number"),
        ({"lora_alpha": float("nan")}, "finite"),
        ({"seed": 2**63}, "64 bits"),
        ({"lora_targets": ("q_proj", "k")}, "some of q_proj, k_proj"),
        ({"lora_targets": ("q_proj", "q_proj")}, "each of them once"),
    ],
)
def test_impossible_values(values: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        SftConfig(**values)


@pytest.mark.parametrize("field", ["init_std", "rope_theta", "fim_rate"])
def test_impossible_values_of_pretraining(field: str) -> None:
    with pytest.raises(UsageError, match=f"{field} is -1"):
        PretrainConfig(**{field: -1.0})


def test_every_field_has_a_help_line() -> None:
    for config in (PretrainConfig, SftConfig):
        assert helps(config).keys() == {field.name for field in fields(config)}


def test_an_unknown_recipe_leads_to_the_known() -> None:
    with pytest.raises(UsageError, match="--recipe list"):
        recipes.find("nothing")
    with pytest.raises(UsageError, match=r"did you mean pretrain-0\.5b or"):
        recipes.find("pretrain-05b")
