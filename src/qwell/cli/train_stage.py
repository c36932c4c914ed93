"""`qwell train pretrain` and `qwell train sft`: a recipe, what was given, and a run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwell.cli.options import Option
from qwell.cli.terminal import note
from qwell.cli.train_options import flags
from qwell.errors import UsageError
from qwell.train import recipes
from qwell.train.config import PretrainConfig, SftConfig, Stage

_OWN = (Option("--recipe", metavar="NAME", help="gives what is not given here; 'list' lists them"),)
_RUN = (
    Option("--dry-run", action="store_true", help="show what it takes on this machine, and end"),
    Option("--ignore-doctor", action="store_true", help="start although the doctor found errors"),
)
_CONFIGS: dict[Stage, type[PretrainConfig] | type[SftConfig]] = {
    "pretrain": PretrainConfig,
    "sft": SftConfig,
}

OPTIONS: dict[str, tuple[Option, ...]] = {
    **{name: (*_OWN, *_RUN, *flags(config)) for name, config in _CONFIGS.items()},
    **{f"doctor {name}": (*_OWN, *flags(config)) for name, config in _CONFIGS.items()},
}


def pretrain(**given: Any) -> None:
    """Prints where the model is. Raises what a run raises."""
    _stage("pretrain", **given)


def sft(**given: Any) -> None:
    """Prints where the model or adapter is. Raises what a run raises."""
    _stage("sft", **given)


def doctor(stage: Stage, **given: Any) -> None:
    """Prints what the doctor finds, every check done. Raises TrainingError if there is an error."""
    if given.get("recipe") == "list":
        print("\n".join(recipes.names(stage)))
        return
    from qwell.train.doctor import examine, refuse, report
    from qwell.train.stage import need_data

    config = _recipe(stage, given).config
    need_data(config)  # "nothing is wrong" must not mean that nothing was looked at
    findings = examine(config)
    print(report(findings))
    refuse(findings, "the run would not start")


def _stage(
    stage: Stage, *, dry_run: bool = False, ignore_doctor: bool = False, **given: Any
) -> None:
    if given.get("recipe") == "list":
        print("\n".join(recipes.names(stage)))
        return
    recipe = _recipe(stage, given)
    if dry_run:
        from qwell.train.dry_run import dry_run as page

        print(page(recipe))
        return
    config = recipe.config
    _before(config, ignore_doctor)
    if isinstance(config, PretrainConfig):
        from qwell.train import pretrain as learn

        result = learn.main(config)
    else:
        from qwell.train import sft as tune

        result = tune.main(config)
    if not is_first():
        return
    if result.is_done:
        _tell(config, result.out / ("adapter" if config.lora_rank else "model"))
    else:
        note(f"stopped after step {result.step:,}; the same command goes on from there")


def _tell(config: PretrainConfig | SftConfig, made: Path) -> None:
    """Where the result is, and how to meet it; an adapter with embeddings must be merged first."""
    print(made)
    if config.lora_embeddings:
        note(f"take it with you: qwell merge {config.model} OUT --adapter {made}")
        return
    where = f"{config.model} --adapter {made}" if config.lora_rank else made
    is_base = isinstance(config, PretrainConfig)
    note(f"try it: qwell run {where} --raw TEXT" if is_base else f"try it: qwell chat {where}")


def is_first() -> bool:
    """Whether this is the process of torchrun that speaks."""
    return os.environ.get("RANK", "0") == "0"


def _before(config: PretrainConfig | SftConfig, ignore_doctor: bool) -> None:
    """What must be seen before a first step. A run that goes on has been seen."""
    from qwell.train.doctor import examine, refuse, report
    from qwell.train.dry_run import fit
    from qwell.train.stage import need_data

    need_data(config)
    fit(config)
    if not is_first() or list(Path(config.out).glob("checkpoints/step-*")):
        return
    findings = examine(config, is_quick=True)
    if findings:
        note(report(findings))
    if not ignore_doctor:
        refuse(findings)


def _recipe(stage: Stage, given: dict[str, Any]) -> recipes.Recipe:
    """The recipe asked for with the values given."""
    name = given.pop("recipe", stage)
    found = recipes.find(name)
    if found.stage != stage:
        raise UsageError(f"{name} is a recipe of qwell train {found.stage}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return replace(found, config=replace(found.config, **values))
