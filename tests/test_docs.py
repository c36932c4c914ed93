"""What the documents tell a reader to type, open or set is there: documents drift in silence."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from qwell.cli.main import COMMANDS
from qwell.cli.options import OPTIONS, Option
from qwell.cli.train import SUBCOMMANDS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "DESIGN.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXTS = {path.name: path.read_text() for path in DOCUMENTS}
FILES = [
    path.as_posix()
    for folder in ("src", "csrc", "tests", "tools", "benchmarks")
    for path in (ROOT / folder).rglob("*.*")
]


def typed(program: str) -> list[str]:
    """All that the documents call `program` with, in blocks and between backticks."""
    found: set[str] = set()
    for text in TEXTS.values():
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for label, block in blocks if not label for line in block.splitlines()]
        shown = [line.split("  #")[0] for line in lines]
        # A line may hold several commands: qwell list        qwell rm MODEL
        shown = [part.strip() for line in shown for part in line.split("   ")]
        shown += re.findall(r"`([^`\n]+)`", text)
        found |= {part for part in shown if part.startswith(f"{program} ")}
    return sorted(part.removeprefix(program).strip() for part in found)


def known_options(words: list[str]) -> tuple[Option, ...]:
    name, *rest = words
    if name != "train":
        return OPTIONS[name]
    stage = rest[0]
    key = " ".join(rest[:2]) if stage == "doctor" else stage
    place = "qwell.cli.train_stage:" if stage == "doctor" else SUBCOMMANDS[stage][0]
    options: tuple[Option, ...] = import_module(place.partition(":")[0]).OPTIONS[key]
    return options


QWELL, MAKE = typed("qwell"), typed("make")


@pytest.mark.parametrize("line", QWELL)
def test_a_command_has_the_options_it_is_shown_with(line: str) -> None:
    words = shlex.split(line)
    flags = {word for word in words if re.match("--?[a-z]", word)} - {"--help"}
    if flags:
        assert flags <= {name for option in known_options(words) for name in option.names}
    elif words[0] != "--help":
        assert words[0] in COMMANDS


@pytest.mark.parametrize("line", MAKE)
def test_a_make_target_exists(line: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in shlex.split(line):
        if "=" not in word:
            assert re.search(rf"^{word}:", makefile, re.MULTILINE), word


def test_enough_is_found_to_check() -> None:
    assert len(QWELL) > 25 and len(MAKE) > 10


@pytest.mark.parametrize("name", TEXTS)
def test_links_and_files_exist(name: str) -> None:
    text, folder = TEXTS[name], next(path.parent for path in DOCUMENTS if path.name == name)
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (folder / link).exists(), link
    for file in re.findall(r"`([\w/.-]+\.(?:py|cpp|h|mjs|toml))`", text):
        assert any(path.endswith(f"/{file}") for path in FILES), file


def test_every_variable_is_in_the_readme() -> None:
    used = {
        name
        for path in (ROOT / "src/qwell").rglob("*.py")
        for name in re.findall(r"\bQWELL_[A-Z_]+[A-Z]\b", path.read_text())
    }
    assert used and used <= set(re.findall(r"QWELL_[A-Z_]+", TEXTS["README.md"]))
