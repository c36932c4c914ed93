"""`qwell train STAGE`: learns. One subcommand a stage, and what is looked at before a run.

The flags of a stage are the fields of its config; --recipe says where their values come from when
they are not given. Only the subcommand that is asked for is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module

from qwell.cli.options import Parser
from qwell.errors import MissingPackageError, UsageError

SUBCOMMANDS = {
    "pretrain": ("qwell.cli.train_stage:pretrain", "Learn every token of raw text and code."),
    "sft": ("qwell.cli.train_stage:sft", "Learn the assistant's turns of conversations."),
    "inspect": (
        "qwell.cli.train_inspect:inspect",
        "Show what of conversations is learnt, token by token.",
    ),
    "clean": (
        "qwell.cli.train_clean:clean",
        "Clean text: repair, duplicates, test data in it.",
    ),
    "tour": ("qwell.cli.train_tour:tour", "The life of a model: from this machine's text to chat."),
    "tokenizer": (
        "qwell.cli.train_tokenizer:tokenizer",
        "Train a tokenizer in the Qwen2 manner.",
    ),
}
"""Name -> the function (its module holds OPTIONS: name -> options), and one line on it."""
DOCTOR = "Look for what is wrong with a run, without starting it."
_DOCTOR_HELP = f"""usage: qwell train doctor STAGE [options]

{DOCTOR}

STAGE is pretrain or sft, the options are those of the run: qwell train doctor sft --help."""


def train(argv: list[str]) -> None:
    """One command line after `qwell train`."""
    name = argv[0] if argv else "--help"
    if name == "doctor":
        _doctor(argv[1:])
        return
    if name in ("-h", "--help", "help"):
        print(_help())
        return
    if name not in SUBCOMMANDS:
        near = get_close_matches(name, [*SUBCOMMANDS, "doctor"], n=1)
        hint = f"did you mean {near[0]}?" if near else "see qwell train --help"
        raise UsageError(f"there is no qwell train {name!r}: {hint}")
    place, purpose = SUBCOMMANDS[name]
    module, _, function = place.partition(":")
    home = import_module(module)
    arguments = Parser(f"train {name}", purpose, home.OPTIONS[name]).parse(argv[1:])
    with _extra():
        getattr(home, function)(**arguments)


def _doctor(argv: list[str]) -> None:
    """`qwell train doctor STAGE` with the options of that stage."""
    from qwell.cli import train_stage

    if argv and argv[0] in ("-h", "--help"):
        print(_DOCTOR_HELP)
        return
    if not argv or argv[0] not in ("pretrain", "sft"):
        raise UsageError("name the stage and its options: qwell train doctor sft --model ...")
    name = f"doctor {argv[0]}"
    arguments = Parser(f"train {name}", DOCTOR, train_stage.OPTIONS[name]).parse(argv[1:])
    with _extra():
        train_stage.doctor(argv[0], **arguments)  # type: ignore[arg-type]


@contextmanager
def _extra() -> Iterator[None]:
    """A missing package of the train extra is one line, not a bug."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("qwell"):
            raise
        raise MissingPackageError("training", str(error.name)) from error


def _help() -> str:
    texts = {name: text for name, (_, text) in SUBCOMMANDS.items()} | {"doctor": DOCTOR}
    lines = [f"  {name:<11}{text}" for name, text in texts.items()]
    return "\n".join(
        [
            "usage: qwell train COMMAND [options]",
            "",
            "From raw text to a chat model of your own.",
            "",
            *lines,
            "",
            "qwell train COMMAND --help tells its options; --dry-run shows what a run would take.",
        ]
    )
