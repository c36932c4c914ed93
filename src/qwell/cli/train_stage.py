"""`qwell train pretrain` and `qwell train sft`: a recipe, what was given, and a run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qwell.cli.options import Option
from qwell.cli.terminal import note
from qwell.cli.train_options import flags
from qwell.errors import UsageError
from qwell.train import recipes
from qwell.train.config import PretrainConfig, SftConfig, Stage, TrainConfig

if TYPE_CHECKING:
    from qwell.train.run import Result

_OWN = (
    Option("--recipe", metavar="NAME", help="gives what is not given here; 'list' lists them"),
    Option("--dry-run", action="store_true", help="show what it takes on this machine, and end"),
)

OPTIONS: dict[str, tuple[Option, ...]] = {
    "pretrain": (*_OWN, *flags(PretrainConfig)),
    "sft": (*_OWN, *flags(SftConfig)),
}


def pretrain(**given: Any) -> None:
    """Prints where the model is. Raises what a run raises."""
    found = _recipe("pretrain", given)
    if found is not None:
        assert isinstance(found.config, PretrainConfig)
        from qwell.train import pretrain as stage

        _report(found.config, stage.main(found.config))


def sft(**given: Any) -> None:
    """Prints where the model or adapter is. Raises what a run raises."""
    found = _recipe("sft", given)
    if found is not None:
        assert isinstance(found.config, SftConfig)
        from qwell.train import sft as stage

        _report(found.config, stage.main(found.config))


def _recipe(stage: Stage, given: dict[str, Any]) -> recipes.Recipe | None:
    """The recipe asked for with the values given; None when a list was all that was asked for."""
    name = given.pop("recipe", stage)
    if name == "list":
        print("\n".join(recipes.names(stage)))
        return None
    found = recipes.find(name)
    if found.stage != stage:
        raise UsageError(f"{name} is a recipe of qwell train {found.stage}")
    wants_dry = given.pop("dry_run", False)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    found = replace(found, config=replace(found.config, **values))
    if not wants_dry:
        return found
    from qwell.train.dry_run import dry_run

    print(dry_run(found))
    return None


def _report(config: TrainConfig, result: Result) -> None:
    if result.is_done:
        print(result.out / ("adapter" if config.lora_rank else "model"))
    else:
        note(f"stopped after step {result.step:,}; the same command goes on from there")
