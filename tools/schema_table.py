"""Makes docs/schemas.md: what becomes of the official JSON Schema test suite, keyword by keyword.

    python tools/schema_table.py [--check]

Each schema is either refused with a reason or enforced, and then every completed random reply of
its grammar is checked with jsonschema; the first that does not fit ends the program. --check
compares with the file in place of writing it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.engine.random_reply import DRAFTS, VERSION, compiler, outcome, suite, suite_folder

from qwell.engine.schema import ANNOTATION, FORMATS, LIST, MAP, ONE, VALUE

TABLE = Path(__file__).parents[1] / "docs" / "schemas.md"
REPLIES = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    arguments = parser.parse_args()
    if suite_folder() is None:
        print("the test suite cannot be fetched: connect to the package index", file=sys.stderr)
        return 1
    text = table()
    if arguments.check:
        return 0 if TABLE.read_text(encoding="utf-8") == text else 1
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(text, encoding="utf-8")
    return 0


def table() -> str:
    """The page. AssertionError for a reply that does not fit its schema."""
    grammar, total = compiler(), []
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for draft in DRAFTS:
        seen: Counter[str] = Counter()
        for keyword, _, schema in suite(draft):
            refusal, ended = outcome(schema, grammar, REPLIES, draft)
            seen["refused" if refusal else "enforced"] += 1
            seen["replies"] += ended
            if draft == DRAFTS[-1]:
                rows[keyword]["refused" if refusal else "enforced"] += 1
        total.append(f"| {draft} | {seen['enforced']} | {seen['refused']} | {seen['replies']:,} |")
    keywords = [f"| {name} | {row['enforced']} | {row['refused']} |" for name, row in rows.items()]
    return HEAD.format(
        enforced=_names((*ONE, "items", *LIST, *MAP, *VALUE)),
        annotations=_names(ANNOTATION),
        formats=_names(FORMATS),
        version=VERSION,
        total="\n".join(total),
        keywords="\n".join(keywords),
    )


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


HEAD = """# Which JSON Schemas are enforced

Made by `tools/schema_table.py`; do not edit.

- Enforced keywords: {enforced}.
- Annotations, which constrain nothing: {annotations}, `uniqueItems: false`, and names that begin with `x-`.
- Enforced formats: {formats}; `int32`, `int64`, `float` and `double` of numbers are annotations.
- Every other keyword, and each case that cannot be enforced exactly, is refused with its name and place: an `oneOf` whose options may overlap; `patternProperties` that may overlap; a `$ref` out of the schema; an inner `$id`; `minProperties` above 1 beyond what `required` names; a `multipleOf` that is no binary fraction; patterns that ECMAScript, Rust and Python read differently; control characters in constants.
- Numbers are compared as decimals. A number of more than 17 digits may round to a bound it does not reach.
- Properties come in the order of the schema. White space between the parts is free up to 40 characters.

## The official test suite

As it travels with jsonschema {version}, its optional part included. A completed random reply of each enforced schema was checked with jsonschema; all fit.

| draft | schemas enforced | refused by name | replies checked |
|---|---|---|---|
{total}

Draft 2020-12 by file of the suite (a schema of one file often uses other keywords as well):

| file | enforced | refused |
|---|---|---|
{keywords}
"""  # noqa: E501

if __name__ == "__main__":
    sys.exit(main())
