"""The options that give an answer its form: a JSON schema, any JSON object, a regex, a grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwell.cli.opening import read_text
from qwell.errors import UsageError

if TYPE_CHECKING:
    from qwell.engine.grammar_spec import GrammarSpec


def read_structure(
    json_schema: str | None, json_object: bool, regex: str | None, grammar: str | None
) -> dict[str, GrammarSpec]:
    """What SamplingParams gets: nothing, or `grammar`. json_schema is a file or the schema itself,
    grammar a file. Raises UsageError for more than one of them and for what cannot be enforced."""
    given = [json_schema is not None, json_object, regex is not None, grammar is not None]
    if sum(given) == 0:
        return {}
    if sum(given) > 1:
        raise UsageError("give one of --json-schema, --json-object, --regex and --grammar")
    from qwell.engine.grammar_spec import GrammarSpec

    if json_schema is not None:
        is_file = not json_schema.lstrip().startswith("{")
        text = read_text(json_schema) if is_file else json_schema
        return {"grammar": GrammarSpec.json_schema(text)}
    if regex is not None:
        return {"grammar": GrammarSpec.regex(regex)}
    if grammar is not None:
        return {"grammar": GrammarSpec.lark(read_text(grammar))}
    return {"grammar": GrammarSpec.json_object()}
