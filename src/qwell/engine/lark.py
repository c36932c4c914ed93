"""Lark grammars: those of users, checked, and the one that makes tool calls.

A call has the form of the chat template, to the last space:

    <tool_call>\\n{"name": "f", "arguments": {...}}\\n</tool_call>

so all but the choice of the tool and its arguments is forced. Several calls, at most MAX_CALLS of
them, stand on lines of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from qwell.engine.pattern import check_weight
from qwell.engine.schema import check_schema
from qwell.errors import UsageError

_SCHEMA = re.compile(r"%json\s*")
_OPTION = re.compile(r"\[[^\]\n]*\b(temperature|max_tokens|stop)\s*=")
_ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
NO_ESCAPES = {"json_allowed_escapes": 'nrbtf\\"'}
"""Without \\u and \\/ a name has one spelling. Else "\\u0061" would be another property than "a" to
the grammar, and the same to whoever reads the reply."""
TAGS = ("<tool_call>", "</tool_call>")


def check_lark(grammar: str) -> str:
    """The grammar with its schemas checked and without annotations. Raises UsageError for one that
    cannot be enforced, and for options that would have no effect here."""
    if option := _OPTION.search(grammar):
        raise UsageError(f"the grammar uses {option[1]}=, which is not supported: leave it out")
    if fault := check_weight(grammar):
        raise UsageError(f"the grammar {fault}")
    parts, at = [], 0
    for place in _SCHEMA.finditer(grammar):
        if place.start() < at:  # inside the schema before
            continue
        try:
            schema, end = json.JSONDecoder().raw_decode(grammar, place.end())
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the grammar has a %json that is not JSON: {error}") from error
        parts += [grammar[at : place.start()], _json(check_schema(schema), NO_ESCAPES)]
        at = end
    return "".join([*parts, grammar[at:]])


def tools_grammar(source: str, special: Collection[str]) -> str:
    """The Lark text of a GrammarSpec of kind 'tools'; `special` are the spellings of added tokens,
    by which a tag is written if it is one."""
    spec = json.loads(source)
    opening, closing = (tag if tag in special else json.dumps(tag) for tag in TAGS)
    bodies = [f"body{i}" for i in range(len(spec["tools"]))]
    lines = [
        f"start: {_START[spec['free'], spec['parallel']]}",
        f'call: {opening} "\\n" ({" | ".join(bodies)}) "\\n" {closing}',
    ]
    for body, (name, schema) in zip(bodies, spec["tools"].items()):
        head = json.dumps(f'{{"name": "{name}", "arguments": ')
        lines.append(f'{body}: {head} {body}_arguments "}}"')  # a root of its own, for its $ref
        lines.append(f"{body}_arguments: {_json(schema, _ONE_LINE | NO_ESCAPES)}")
    if spec["free"]:  # nor may the text spell a call by other tokens
        lines.append(r"TEXT: /(?s:.*)/ & ~/(?s:.*)<tool_call>(?s:.*)/")
    return "\n".join(lines)


MAX_CALLS = 64
"""Of a reply that has to call: a small model that may go on for ever does."""

_START = {
    (False, False): "call",
    (False, True): f'call ("\\n" call){{0,{MAX_CALLS - 1}}}',
    (True, False): "TEXT call?",
    (True, True): "TEXT (call TEXT)*",
}
"""By whether text is free and whether calls may be several."""


def _json(schema: Any, options: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({"x-guidance": dict(options), **schema}, ensure_ascii=False)
