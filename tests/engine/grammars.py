"""What the tests of grammars share: real schemas, tools, and whether a text is let through."""

from __future__ import annotations

import json
from pathlib import Path

from qwell.engine.grammar import Grammar
from qwell.text.tool_request import read_tools
from tests.engine.random_reply import TOKENIZER, allowed
from tests.engine.tiny import EOS

SCHEMAS = {
    f"{path.stem}.{name}": schema
    for path in sorted((Path(__file__).parent / "schemas").glob("*.json"))
    for name, schema in json.loads(path.read_text()).items()
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS = read_tools(
    [
        {"type": "function", "function": {"name": name, "parameters": parameters}}
        for name, parameters in {
            "get_weather": {
                "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"enum": [1, 2]}},
                "required": ["city"],
                "additionalProperties": False,
                "$defs": {"city": {"type": "string", "minLength": 1}},
            },
            "get_time": {"properties": {"zone": {"const": "UTC"}}, "additionalProperties": False},
        }.items()
    ]
)


def takes(grammar: Grammar, text: str) -> bool:
    """The whole text, and it may end there."""
    for token in TOKENIZER.encode(text, allow_special=True):
        if not allowed(grammar)[token]:
            return False
        grammar.advance(token)
    return grammar.is_done or bool(allowed(grammar)[EOS])
