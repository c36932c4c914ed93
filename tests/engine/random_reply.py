"""Replies of a grammar alone: random tokens, no model. And the official JSON Schema test suite.

The tokens that end things weigh more, so that most replies come to an end; one that does not within
its tokens is given up, as a reply cut by max_tokens is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from qwell.engine.grammar import Grammar, GrammarCompiler
from qwell.engine.grammar_spec import GrammarSpec
from qwell.errors import UsageError
from tests.engine.tiny import EOS, NUM_TOKENS, make_tokenizer

VERSION = "4.26.0"
DRAFTS = ("draft4", "draft6", "draft7", "draft2019-09", "draft2020-12")
TOKENIZER = make_tokenizer()
WEIGHTS = np.array([0.02] * 256 + [1] * (NUM_TOKENS - 256))
for chars, weight in (
    ("".join(map(chr, range(33, 127))), 1),
    ("\\ \n", 0.3),
    ("0123456789", 3),
    (".-eE", 2),
    ("}]", 60),
    ('"', 40),
):
    for char in chars:
        WEIGHTS[TOKENIZER.encode(char)[0]] = weight
WEIGHTS[EOS] = 5
CLOSING = np.isin(np.arange(NUM_TOKENS), [EOS, *(TOKENIZER.encode(c)[0] for c in '}]"')])


def compiler() -> GrammarCompiler:
    return GrammarCompiler(TOKENIZER, vocab_size=NUM_TOKENS, eos_ids=TOKENIZER.eos_ids)


def allowed(grammar: Grammar) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """bool [NUM_TOKENS] of a mask."""
    bits = np.unpackbits(grammar.mask().view(np.uint8), bitorder="little")
    assert not bits[NUM_TOKENS:].any()
    return bits[:NUM_TOKENS].astype(bool)


def random_reply(grammar: Grammar, random: np.random.Generator, tokens: int = 400) -> str | None:
    """One reply from the start of the grammar, or None if it did not end."""
    chosen: list[int] = []
    while len(chosen) < tokens:
        weights = np.where(allowed(grammar), WEIGHTS, 0)
        assert weights.any(), "a grammar that is not done lets no token through"
        weights = np.where(CLOSING & (len(chosen) > 60), 50 * weights, weights)
        token = int(random.choice(NUM_TOKENS, p=weights / weights.sum()))
        if token in TOKENIZER.eos_ids:
            return TOKENIZER.decode(chosen)
        chosen.append(token)
        grammar.advance(token)
        for forced in grammar.forced():
            chosen.append(forced)
            grammar.advance(forced)
        if grammar.is_done:
            return TOKENIZER.decode(chosen)
    return None


def validator(schema: Any, default: str = "draft2020-12") -> Any:
    """jsonschema's validator for a schema; `default` is the draft of one that does not say."""
    import jsonschema

    by_draft = {
        "draft4": jsonschema.Draft4Validator,
        "draft6": jsonschema.Draft6Validator,
        "draft7": jsonschema.Draft7Validator,
        "draft2019-09": jsonschema.Draft201909Validator,
        "draft2020-12": jsonschema.Draft202012Validator,
    }
    if isinstance(schema, bool):
        return by_draft[default](schema)
    return jsonschema.validators.validator_for(schema, default=by_draft[default])(schema)


def faults(
    schema: Any, grammar: GrammarCompiler, replies: int, draft: str
) -> tuple[int, list[str]]:
    """How many of the replies ended, and those of them that do not fit the schema. Raises
    UsageError if the schema is refused."""
    spec = GrammarSpec.json_schema(schema)
    grammar.compile(spec)
    check, random = validator(schema, draft), np.random.default_rng(0)
    found = [random_reply(grammar.compile(spec), random) for _ in range(replies)]
    texts = [text for text in found if text is not None]
    return len(texts), [text for text in texts if not check.is_valid(json.loads(text))]


@cache
def suite_folder() -> Path | None:
    """The folder json/tests of jsonschema's source package, fetched once into the user's cache;
    None where it cannot be had."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwell-tests"
    tests = home / f"jsonschema-{VERSION}" / "json" / "tests"
    if not tests.exists():
        home.mkdir(parents=True, exist_ok=True)
        options = ["-q", "--no-binary", ":all:", "--no-deps", "-d", str(home)]
        command = [sys.executable, "-m", "pip", "download", *options, f"jsonschema=={VERSION}"]
        if subprocess.run(command, capture_output=True, check=False, timeout=120).returncode:
            return None
        with tarfile.open(home / f"jsonschema-{VERSION}.tar.gz") as package:
            package.extractall(home, filter="data")
    return tests if tests.exists() else None


def suite(draft: str) -> Iterator[tuple[str, str, Any]]:
    """Keyword, description and schema of every group of a draft."""
    folder = suite_folder()
    assert folder is not None
    for path in sorted((folder / draft).rglob("*.json")):
        name = path.relative_to(folder / draft).with_suffix("").as_posix()
        for group in json.loads(path.read_text(encoding="utf-8")):
            yield name, group["description"], group["schema"]


def outcome(schema: Any, grammar: GrammarCompiler, replies: int, draft: str) -> tuple[str, int]:
    """'' or the refusal of a schema, and how many replies were checked. AssertionError for a reply
    that does not fit."""
    try:
        ended, wrong = faults(schema, grammar, replies, draft)
    except UsageError as error:
        assert "\n" not in str(error)
        return str(error), 0
    assert not wrong, f"{schema} lets {wrong[0]!r} through"
    return "", ended
