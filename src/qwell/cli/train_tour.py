"""`qwell train tour`: the life of a model in one command."""

from __future__ import annotations

from typing import Any

from qwell.cli.options import Option
from qwell.cli.terminal import note

_NUMBERS: dict[str, tuple[Any, str]] = {
    "pretrain_minutes": (float, "time of pre-training (15)"),
    "sft_minutes": (float, "time of fine-tuning (4.5)"),
    "pretrain_steps": (int, "steps of pre-training; else as many as fit its minutes"),
    "sft_steps": (int, "steps of fine-tuning; else as many as fit its minutes"),
    "corpus_bytes": (int, "text gathered from this machine (48000000)"),
    "held_out_bytes": (int, "held-out text to measure on (300000)"),
    "vocab_size": (int, "tokens of the tokenizer (16384)"),
    "hidden_size": (int, "of the model, a multiple of 64 (256)"),
    "layers": (int, "of the model (4)"),
    "rows_per_task": (int, "questions to learn of each task (12000)"),
    "tests_per_task": (int, "questions held out of each task (40)"),
    "seed": (int, "of weights, orders and tasks (0)"),
    "threads": (int, "threads; else as many cores as this process may use"),
}

OPTIONS: dict[str, tuple[Option, ...]] = {
    "tour": (
        Option("--out", metavar="FOLDER", help="folder of everything it makes (runs/tour)"),
        *(
            Option(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=line)
            for name, (kind, line) in _NUMBERS.items()
        ),
    )
}


def tour(**given: Any) -> None:
    """Prints where the report is."""
    from qwell.train.tour import tour as run
    from qwell.train.tour_config import TourConfig

    print(run(TourConfig(**given), note))
