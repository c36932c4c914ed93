"""What a reply must look like, as a frozen value: JSON of a schema, a regex, Lark, tool calls.

Made and checked in microseconds, without llguidance; `grammar.py` compiles it. Two equal specs are
the same grammar, so that it is compiled once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwell.errors import UsageError

if TYPE_CHECKING:
    from qwell.text.tool_request import ToolChoice, ToolSpec

MAX_BYTES = 256 * 1024
"""Of a schema, regex or grammar: above any real one, below what takes a second to compile."""


@dataclass(frozen=True)
class GrammarSpec:
    """Made by its class methods; each raises UsageError for what can never be enforced."""

    kind: str
    """'json_schema', 'regex', 'lark' or 'tools'."""
    source: str

    def __post_init__(self) -> None:
        size = len(self.source.encode("utf-8", "surrogatepass"))
        if size > MAX_BYTES:
            raise UsageError(f"the {self.kind} has {size:,} bytes: at most {MAX_BYTES:,} are taken")

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool | str) -> GrammarSpec:
        """JSON that fits the schema, given as a value or as JSON text.

        Properties come in the order of the schema. A keyword that cannot be enforced is an error
        that names it and its place.
        """
        from qwell.engine.schema import check_schema

        return cls("json_schema", _dump(check_schema(_load(schema))))

    @classmethod
    def json_object(cls) -> GrammarSpec:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> GrammarSpec:
        """Text that matches as a whole; the syntax of Rust's regex crate, no look-around."""
        from qwell.engine.pattern import check_weight

        if isinstance(pattern, str) and (fault := check_weight(pattern)):
            raise UsageError(f"the regex {fault}")
        return cls("regex", pattern)

    @classmethod
    def lark(cls, grammar: str) -> GrammarSpec:
        """Text of a context-free grammar in llguidance's form of Lark, its schemas checked as in
        `json_schema`. `<name>` is the added token of that spelling."""
        from qwell.engine.lark import check_lark

        return cls("lark", check_lark(grammar))

    @classmethod
    def tool_calls(
        cls, tools: Sequence[ToolSpec], choice: ToolChoice, *, parallel: bool = True
    ) -> GrammarSpec | None:
        """Calls in the Hermes format with arguments valid by construction; see lark.py.

        required: calls alone, several only if `parallel`. named: one call. auto: free text until
        a call begins; only if some tool is strict, else None: nothing is enforced. none: None.
        """
        if choice.mode == "none" or not tools:
            return None
        if choice.mode == "auto" and not any(tool.strict for tool in tools):
            return None
        is_free = choice.mode == "auto"
        # Who names a function wants it called; a small model would go on until its tokens end.
        parallel = parallel and choice.mode != "named"
        schemas = {
            tool.name: _arguments(tool, i, is_checked=tool.strict or not is_free)
            for i, tool in enumerate(tools)
            if choice.name in (None, tool.name)
        }
        return cls("tools", _dump({"free": is_free, "parallel": parallel, "tools": schemas}))


def _arguments(tool: ToolSpec, index: int, *, is_checked: bool) -> Any:
    from qwell.engine.schema import check_schema

    where = f"tools[{index}].function.parameters"
    return check_schema(_load(tool.parameters), where) if is_checked else {"type": "object"}


def _load(schema: Mapping[str, Any] | bool | str) -> Any:
    """Plain JSON values, whatever the caller's mappings and keys are."""
    text = schema if isinstance(schema, str) else _dump(schema)
    if len(text) > MAX_BYTES:
        raise UsageError(f"the schema has {len(text):,} characters: give at most {MAX_BYTES:,}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the schema is not JSON: {error}") from error


def _dump(value: Any) -> str:
    """Key order is kept: it is the order of the properties in the reply."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the schema has a value that is not JSON: {error}") from error
