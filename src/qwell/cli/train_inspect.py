"""`qwell train inspect DATA --model MODEL`: what of a data set is learnt, token by token.

On a terminal what is learnt is green, what is only read is dim, control tokens are magenta, and
neighbouring tokens differ in shade; in a pipe the same is told in brackets, or with --tokens one
line a token. Loads no weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qwell.cli.opening import fetch, read_template
from qwell.cli.options import AS_JSON, Option, positive, text
from qwell.cli.terminal import note
from qwell.errors import UsageError

if TYPE_CHECKING:
    from qwell.data.example import Example, Examples
    from qwell.text import Tokenizer

OPTIONS = {
    "inspect": (
        Option("data", type=text, metavar="DATA", help="file or folder of conversations or texts"),
        Option("--model", required=True, metavar="MODEL", help="whose tokenizer and template"),
        Option("--format", metavar="F", help="messages, sharegpt or alpaca (found by itself)"),
        Option("--raw", action="store_true", help="texts of pre-training, not conversations"),
        Option("--template", metavar="FILE", help="another Jinja chat template"),
        Option("--learn", choices=["all", "last"], help="which turns of the assistant (all)"),
        Option("--first", type=positive, metavar="N", help="begin with that document (1)"),
        Option("--count", type=positive, metavar="N", help="documents to show (3)"),
        Option("--tokens", action="store_true", help="one line a token, with its id"),
        AS_JSON,
    )
}

_STYLES = {
    # (is learnt, is control): style of even and of odd tokens
    (True, False): ("black on green", "black on bright_green"),
    (True, True): ("bold white on magenta", "bold white on magenta"),
    (False, False): ("dim", "default"),
    (False, True): ("magenta", "magenta"),
}


def inspect(
    data: str,
    *,
    model: str,
    format: str | None = None,
    raw: bool = False,
    template: str | None = None,
    learn: str = "all",
    first: int = 1,
    count: int = 3,
    tokens: bool = False,
    as_json: bool = False,
) -> None:
    """Prints `count` documents from number `first`: where each stands, how many of its tokens are
    learnt, and the tokens. as_json: one object a line."""
    from qwell.engine.load import load_tokenizer

    fetch(model)
    tokenizer = load_tokenizer(model)
    if sys.stdout.isatty() and not (tokens or as_json):
        note("green: learnt, plain and dim: only read, magenta: control tokens")
    examples = _examples(
        data, model, tokenizer, form=format, raw=raw, template=template, learn=learn
    )
    if first > len(examples):
        raise UsageError(f"--first {first} is behind the last of {len(examples):,} documents")
    for at in range(first - 1, min(first - 1 + count, len(examples))):
        found = examples.encode(at, 0)
        if as_json:
            print(json.dumps(_as_json(tokenizer, found), ensure_ascii=False))
        else:
            _print(tokenizer, found, tokens)
    note(f"{len(examples):,} documents in {data}")


def _examples(
    data: str,
    model: str,
    tokenizer: Tokenizer,
    *,
    form: str | None,
    raw: bool,
    template: str | None,
    learn: str,
) -> Examples:
    from qwell.data.chat import ChatExamples
    from qwell.data.folder import open_records
    from qwell.data.texts import TextExamples
    from qwell.engine.load import load_template
    from qwell.text import ChatTemplate

    opened = open_records(data, texts=raw)
    skipped = [f"{count:,} {reason}" for reason, count in opened.skipped.items() if count]
    if skipped:
        note(f"left out: {', '.join(skipped)}")
    if raw:
        return TextExamples(opened.records, tokenizer)
    chat = read_template(template) if template else load_template(model) or ChatTemplate.chatml()
    examples = ChatExamples(opened.records, tokenizer, chat, form=form, learn=learn)
    note(f"format: {examples.form}")
    return examples


def _print(tokenizer: Tokenizer, found: Example, one_a_line: bool) -> None:
    from qwell.data.show import marked, tokens_of

    share = found.num_targets / max(1, len(found))
    head = f"{found.place}: {len(found):,} tokens, {found.num_targets:,} learnt ({share:.0%})"
    if one_a_line:
        print(head)
        for token in tokens_of(tokenizer, found):
            learnt = "learnt" if token.is_learnt else "-"
            print(f"{token.id:>7}  {learnt:<6}  {_shown(token.raw)}")
        print()
    elif sys.stdout.isatty():
        _print_coloured(tokenizer, found, head)
    else:
        print(head, marked(tokenizer, found, limit=None), "", sep="\n")


def _print_coloured(tokenizer: Tokenizer, found: Example, head: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.rule(Text(head))
    console.print(Text.assemble(*_coloured(tokenizer, found)), soft_wrap=True)
    console.print()


def _coloured(tokenizer: Tokenizer, found: Example) -> Iterator[tuple[str, str]]:
    """Text and style of each token; what could move the cursor is shown as an escape."""
    from qwell.data.show import tokens_of

    for place, token in enumerate(tokens_of(tokenizer, found)):
        try:
            shown = "".join(_visible(char) for char in token.raw.decode())
        except UnicodeDecodeError:
            shown = "".join(f"\\x{byte:02x}" for byte in token.raw)
        yield shown, _STYLES[token.is_learnt, token.is_control][place % 2]


def _visible(char: str) -> str:
    if char == "\n":
        return "⏎\n"
    return char if char.isprintable() else repr(char)[1:-1]


def _shown(raw: bytes) -> str:
    try:
        return repr(raw.decode())
    except UnicodeDecodeError:
        return repr(raw)


def _as_json(tokenizer: Tokenizer, found: Example) -> dict[str, Any]:
    from qwell.data.show import tokens_of

    tokens = [
        {"id": t.id, "bytes": list(t.raw), "learnt": t.is_learnt, "control": t.is_control}
        for t in tokens_of(tokenizer, found)
    ]
    return {"place": found.place, "learnt": found.num_targets, "tokens": tokens}
