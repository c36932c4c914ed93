"""A corpus for nothing: the source code and documentation on any machine that has Python.

The standard library, the installed packages and /usr/share/doc. Whole files, chosen by the hash of
their content until there is enough, so neither the order of folders nor the name of the machine
matters; one in `HELD_OUT` of them, by the same hash, is test data. Duplicates are dropped before
the split, near ones too: a test file has no twin in training. Nor is it a patchwork of training
files: one of whose runs of five words more than half stand in them is left out. What is learnt
from is cut into pieces, which are shuffled like documents: the rows of one long file, step after
step, would teach a small model that file and little else.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path

from qwell.data.clean import Cleaned, clean, write_whole
from qwell.data.duplicates import shares_found
from qwell.data.folder import PROSE, why_not_text
from qwell.data.records import Record, TextFiles
from qwell.errors import DataError

HELD_OUT = 50
"""One file in so many is test data."""
KNOWN = 0.5
"""Of a test file: the share of its runs of five words that may stand in training text."""
_PLACES = ("stdlib", "purelib", "platlib")
_PACKAGES = ("site-packages", "dist-packages")
_DOCS = Path("/usr/share/doc")
_NAMES = ("readme", "copyright", "license", "changelog", "news", "authors", "todo", "faq")
_SKIPPED = frozenset({"__pycache__", "node_modules", "idle_test", "site-packages", "test", "tests"})
MIN_BYTES, MAX_BYTES = 200, 65_536
"""Of a file: shorter ones say nothing, longer ones are tables."""
PIECE = 4_000
"""Characters of a piece of training text, at most: about 1,000 tokens of the tour's model."""


@dataclass
class Gathered:
    """`train` (in pieces) and `test`: JSON lines with text, kind ("code" or "prose") and path."""

    train: Path
    test: Path
    documents: dict[str, int] = field(default_factory=dict)
    """By split and kind, as `bytes`."""
    bytes: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    """Files left out, by reason."""


def gather(
    folder: Path,
    *,
    max_bytes: int,
    prose_share: float = 0.3,
    roots: list[Path] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Gathered:
    """Writes train.jsonl, test.jsonl and gathered.json to `folder`, of about max_bytes of text in
    all; `prose_share` of them documentation, if there is so much. `roots`: other folders to look
    in. progress(step, done, total). Raises DataError if nothing is found, StorageError.
    """
    skipped: Counter[str] = Counter()
    files = _chosen(_found(roots or places(), skipped), max_bytes, prose_share)
    records = TextFiles([path for path, _ in files], piece=MAX_BYTES + 1)
    if not len(records):
        raise DataError("no source code and no documentation was found: name other folders")
    cleaned, report = clean(records, progress=progress)
    for step in report.steps:
        skipped[step.name] += step.dropped
    made = Gathered(folder / "train.jsonl", folder / "test.jsonl", skipped=dict(+skipped))
    kinds = {str(path): kind for path, kind in files}
    known = _known(cleaned)
    left = cleaned.without(known)
    made.skipped |= {"test files known from training text": len(known)} if known else {}
    for split, path in (("train", made.train), ("test", made.test)):
        write_whole(path, _lines(left, split, kinds, made))
    told = asdict(made) | {"train": made.train.name, "test": made.test.name}
    write_whole(folder / "gathered.json", [json.dumps(told, indent=1)])
    return made


def places() -> list[Path]:
    """The folders of this machine, each once: the library, what can be imported from packages
    (a virtual environment may see those of another), the documentation."""
    found = [Path(sysconfig.get_path(name)) for name in _PLACES]
    shared = [Path(name) for name in sys.path if Path(name).name in _PACKAGES]
    return [path for path in dict.fromkeys([*found, *shared, _DOCS]) if path.is_dir()]


def is_held_out(text: str) -> bool:
    """Whether a document is test data: fixed by its content."""
    return _hash(text.encode("utf-8", "replace")) % HELD_OUT == 0


def _hash(raw: bytes) -> int:
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "little")


def _found(roots: list[Path], skipped: Counter[str]) -> Iterator[tuple[int, int, Path, str]]:
    """Rank, size, path and kind of every file that is code or documentation."""
    for root in roots:
        for path in _walk(root):
            kind = _kind(path)
            if kind is None:
                skipped["neither code nor documentation"] += 1
            elif reason := _why_not(path):
                skipped[reason] += 1
            else:
                raw = path.read_bytes()
                yield _hash(raw), len(raw), path, kind


def _walk(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED and name[0] != "."]
        yield from (Path(place, name) for name in names)


def _kind(path: Path) -> str | None:
    if path.suffix == ".py":
        return "code"
    is_named = path.suffix.lower() in ("", *PROSE) and path.stem.lower().startswith(_NAMES)
    is_doc = path.suffix.lower() in (".md", ".rst")
    is_text = path.suffix.lower() == ".txt" and "doc" in str(path.parent).lower()
    return "prose" if is_named or is_doc or is_text else None


def _why_not(path: Path) -> str | None:
    try:
        size = path.stat().st_size
    except OSError:
        return "cannot be read"
    if not MIN_BYTES <= size <= MAX_BYTES:
        return f"not {MIN_BYTES:,} to {MAX_BYTES:,} bytes"
    return why_not_text(path)


def _chosen(
    found: Iterator[tuple[int, int, Path, str]], max_bytes: int, prose_share: float
) -> list[tuple[Path, str]]:
    """Files of each kind by rank up to its share of the bytes; one has what the other lacks."""
    ranked = sorted(found)
    prose = [entry for entry in ranked if entry[3] == "prose"]
    code = [entry for entry in ranked if entry[3] == "code"]
    some_prose = _until(prose, prose_share * max_bytes)
    some_code = _until(code, max_bytes - sum(size for _, size, _, _ in some_prose))
    rest = max_bytes - sum(size for _, size, _, _ in some_code)
    chosen = sorted(some_code + _until(prose, rest))
    return [(path, kind) for _, _, path, kind in chosen]


def _until(
    entries: list[tuple[int, int, Path, str]], limit: float
) -> list[tuple[int, int, Path, str]]:
    """By rank those that still fit."""
    taken, total = [], 0
    for entry in entries:
        if total + entry[1] <= limit:
            taken.append(entry)
            total += entry[1]
    return taken


def _known(cleaned: Cleaned) -> set[int]:
    """Test documents that are for the larger part a patchwork of training documents."""
    texts = [cleaned[at].value for at in range(len(cleaned))]
    held = [at for at, text in enumerate(texts) if is_held_out(text)]
    rest = (text for text in texts if not is_held_out(text))
    shares = shares_found([texts[at] for at in held], rest)
    return {at for at, share in zip(held, shares, strict=True) if share > KNOWN}


def _lines(cleaned: Cleaned, split: str, kinds: dict[str, str], made: Gathered) -> Iterator[str]:
    for at in range(len(cleaned)):
        record: Record = cleaned[at]
        if is_held_out(record.value) != (split == "test"):
            continue
        kind = kinds[record.place]
        name = f"{split} {kind}"
        made.documents[name] = made.documents.get(name, 0) + 1
        made.bytes[name] = made.bytes.get(name, 0) + len(record.value.encode())
        for text in _pieces(record.value) if split == "train" else [record.value]:
            yield json.dumps({"text": text, "kind": kind, "path": record.place})


def _pieces(text: str) -> Iterator[str]:
    """Text in pieces of up to PIECE characters that end with a line, a longer line being one."""
    begin = 0
    while len(text) - begin > PIECE:
        end = text.rfind("\n", begin, begin + PIECE) + 1 or text.find("\n", begin) + 1
        if end <= begin:
            break
        yield text[begin:end]
        begin = end
    yield text[begin:]
