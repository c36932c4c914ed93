"""`qwell train tokenizer DATA... --vocab-size N --out FOLDER`: a tokenizer in the Qwen2 manner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qwell.cli.opening import read_template
from qwell.cli.options import Option, positive, text
from qwell.cli.terminal import Progress, note

OPTIONS = {
    "tokenizer": (
        Option("data", type=text, nargs="+", metavar="DATA", help="files or folders of text, code"),
        Option("--vocab-size", type=positive, required=True, metavar="N", help="tokens in all"),
        Option("--out", required=True, metavar="FOLDER", help="where its files go"),
        Option("--field", metavar="NAME", help="where the text of an object stands"),
        Option("--template", metavar="FILE", help="Jinja chat template (Qwen2.5's)"),
        Option("--force", action="store_true", help="replace the folder"),
    )
}


def tokenizer(
    data: list[str],
    *,
    vocab_size: int,
    out: str,
    field: str | None = None,
    template: str | None = None,
    force: bool = False,
) -> None:
    """Learns a tokenizer of vocab_size tokens, control tokens included, and saves it."""
    from qwell.data.learn_bpe import check_place, learn_tokenizer, save_tokenizer
    from qwell.text import ChatTemplate

    check_place(Path(out), force=force)
    chat = read_template(template) if template else ChatTemplate.chatml()
    bar = Progress("reading")
    try:
        learnt = learn_tokenizer(_texts(data, field, bar), vocab_size=vocab_size)
    finally:
        bar.close()
    save_tokenizer(learnt, chat, Path(out), force=force)
    note(f"{learnt.vocab_size:,} tokens are in {out}")


def _texts(paths: list[str], field: str | None, bar: Progress) -> Iterator[str]:
    from qwell.data.folder import open_records
    from qwell.data.texts import text_of

    opened = [open_records(path) for path in paths]
    for path, found in zip(paths, opened):
        skipped = [f"{n:,} {reason}" for reason, n in found.skipped.items() if n]
        if skipped:
            note(f"left out of {path}: {', '.join(skipped)}")
    done, total = 0, sum(len(found.records) for found in opened)
    for found in opened:
        for at in range(len(found.records)):
            yield text_of(found.records[at], field)
            done += 1
            bar(done, total)
