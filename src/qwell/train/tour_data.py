"""Questions about the modules of Python's library, with the first words of their own docs."""

from __future__ import annotations

import ast
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from qwell.train.files import write_whole

PHRASES = (
    "What is the Python module {} for?",
    "What does {} do?",
    "Tell me about the module {}.",
    "{}?",
)


def write_questions(path: Path) -> int:
    """Writes conversations, each module in every phrase; how many modules there are."""
    modules = dict(_documented(Path(sysconfig.get_path("stdlib"))))
    rows = (
        {"messages": [_turn("user", phrase.format(name)), _turn("assistant", text)]}
        for name, text in sorted(modules.items())
        for phrase in PHRASES
    )
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return len(modules)


def _documented(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and first paragraph of the docs of every module at the top of the library."""
    for path in [*folder.glob("*.py"), *folder.glob("*/__init__.py")]:
        name = path.stem if path.name != "__init__.py" else path.parent.name
        if name.startswith("_") or not name.isidentifier():
            continue
        try:
            doc = ast.get_docstring(ast.parse(path.read_bytes()))
        except (OSError, SyntaxError, ValueError):
            continue
        first = " ".join((doc or "").split("\n\n")[0].split())
        if 15 <= len(first) <= 200:
            yield name, first


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
