"""`qwell train tour`: the life of a model in one command."""

from __future__ import annotations

from typing import Any

from qwell.cli.terminal import note
from qwell.cli.train_options import flags
from qwell.train.tour_config import TourConfig

OPTIONS = {"tour": flags(TourConfig, with_defaults=True)}


def tour(**given: Any) -> None:
    """Prints where the report is."""
    from qwell.train.tour import tour as run

    print(run(TourConfig(**given), note))
