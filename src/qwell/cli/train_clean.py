"""`qwell train clean DATA --out FILE`: what is worth learning from, and a report of what is not.

Writes JSON lines beside a report (FILE with .report.json) that counts what every step changed or
dropped, with examples. Texts and conversations alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qwell.cli.opening import fetch
from qwell.cli.options import FORCE, Option, text
from qwell.cli.terminal import Progress, note
from qwell.errors import UsageError

if TYPE_CHECKING:
    from qwell.data.clean import CleaningReport

OPTIONS = {
    "clean": (
        Option("data", type=text, metavar="DATA", help="file or folder of texts or conversations"),
        Option("--out", required=True, metavar="FILE", help="JSON lines to write"),
        Option("--near", type=float, metavar="X", help="likeness of near duplicates (0.8); 0: off"),
        Option("--no-repair", action="store_true", help="leave Unicode as it is"),
        Option("--against", metavar="TEST", help="leave out what overlaps with this test data"),
        Option("--model", metavar="MODEL", help="whose tokens are compared, with --against"),
        Option("--field", metavar="NAME", help="where the text of an object stands"),
        FORCE,
    )
}


def clean(
    data: str,
    *,
    out: str,
    near: float = 0.8,
    no_repair: bool = False,
    against: str | None = None,
    model: str | None = None,
    field: str | None = None,
    force: bool = False,
) -> None:
    """Writes `out` and its report; says what each step did."""
    from qwell.data.clean import clean as clean_records
    from qwell.data.clean import said
    from qwell.data.folder import open_records

    if not 0 <= near <= 1:
        raise UsageError(f"--near {near} is no likeness from 0 to 1")
    if against and not model:
        raise UsageError("--against compares tokens: name a --model whose tokenizer to take")
    _check_apart(out, data, *([against] if against else []))
    _check_free(Path(out), force)
    records = open_records(data).records
    test = open_records(against).records if against else ()
    tokenizer = None
    if model:
        from qwell.engine.load import load_tokenizer

        fetch(model)
        tokenizer = load_tokenizer(model)
    bar = Progress("cleaning")
    try:
        left, report = clean_records(
            records,
            repair=not no_repair,
            near=near or None,
            tests=[said(test[at]) for at in range(len(test))],
            tokenizer=tokenizer,
            field=field,
            progress=lambda _, done, total: bar(done, total),
        )
    finally:
        bar.close()
    left.save(Path(out))
    report.save(_report_of(Path(out)))
    _tell(report, out)


def _check_apart(out: str, *read: str) -> None:
    """Raises UsageError where the result would replace, or next time be, what is cleaned."""
    place = Path(out).resolve()
    for source in read:
        if place == Path(source).resolve() or Path(source).resolve() in place.parents:
            raise UsageError(f"--out {out} is a part of {source}, which is read: write elsewhere")


def _check_free(out: Path, force: bool) -> None:
    """Raises UsageError for a file that no cleaning wrote: it may be the only one of its kind."""
    if out.is_file() and not force and not _report_of(out).is_file():
        raise UsageError(f"{out} is there already: give another name, or --force to replace it")


def _report_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.report.json")


def _tell(report: CleaningReport, out: str) -> None:
    for step in report.steps:
        print(f"{step.name}: {step.dropped:,} dropped, {step.changed:,} changed of {step.seen:,}")
        for example in step.examples:
            print(f"    {example}")
    note(f"{report.kept:,} of {report.seen:,} records are in {out}; report in {out}.report.json")
