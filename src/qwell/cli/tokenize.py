"""`qwell tokenize MODEL TEXT`: how a model reads a text, token by token. Loads no weights.

On a terminal the tokens are coloured; in a pipe the same lines are plain.
"""

from __future__ import annotations

import json
import sys

from qwell.cli.opening import fetch
from qwell.cli.run import read_prompt
from qwell.cli.terminal import note
from qwell.text import Tokenizer

_STYLES = ("cyan", "yellow")


def tokenize(
    model: str, text: str, *, special: bool = False, ids: bool = False, as_json: bool = False
) -> None:
    """Prints one line a token, its id and its text; `text` "-" is read from stdin.

    special: the spelling of a control token becomes that token. ids: the ids alone, on one line.
    as_json: one object. A token that is not whole UTF-8 is shown as bytes.
    """
    from qwell.engine.load import load_tokenizer

    text = read_prompt(text)
    fetch(model)
    tokenizer = load_tokenizer(model)
    found = tokenizer.encode(text, allow_special=special)
    if as_json:
        tokens = [{"id": i, "bytes": list(tokenizer.token_bytes(i))} for i in found]
        print(json.dumps({"model": model, "count": len(found), "tokens": tokens}))
    elif ids:
        print(*found)
    else:
        _print_lines(tokenizer, found)
        note(f"{len(found):,} token{'s' * (len(found) != 1)}")


def _print_lines(tokenizer: Tokenizer, found: list[int]) -> None:
    lines = [(f"{i:>7}  ", _shown(tokenizer.token_bytes(i)), i) for i in found]
    if not sys.stdout.isatty():
        print("\n".join(number + shown for number, shown, _ in lines))
        return
    from rich.console import Console
    from rich.text import Text

    console, added = Console(), set(tokenizer.special_tokens.values())
    for place, (number, shown, i) in enumerate(lines):
        style = "bold magenta" if i in added else _STYLES[place % 2]
        console.print(Text.assemble((number, "dim"), (shown, style)), soft_wrap=True)


def _shown(raw: bytes) -> str:
    """In quotes, with everything that could move the cursor escaped."""
    try:
        return repr(raw.decode())
    except UnicodeDecodeError:
        return repr(raw)
