"""Which JSON Schemas can be enforced: a walk that refuses every keyword that would be ignored.

llguidance refuses most of what it cannot enforce and ignores keywords it does not know. Here each
keyword is on a list, or the schema is refused with its name and place. What is left passes through
llguidance's own checks (overlapping oneOf and the like). docs/schemas.md shows the outcome on the
official test suite; `tools/schema_table.py` makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwell.engine.pattern import CONTROL, check_pattern, check_weight
from qwell.errors import UsageError

MAX_DEPTH = 48
"""Schemas inside schemas; llguidance's own reader ends at 128 brackets."""

ONE = ("additionalProperties", "additionalItems")
LIST = ("allOf", "anyOf", "oneOf", "prefixItems")
MAP = ("properties", "patternProperties", "$defs", "definitions")
VALUE = (
    *("$ref", "$anchor", "type", "enum", "const", "required", "minProperties", "maxProperties"),
    *("minItems", "maxItems", "minLength", "maxLength", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
)
ANNOTATION = (
    *("$schema", "$id", "id", "$comment", "title", "description", "default", "examples"),
    *("example", "deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding"),
)
"""Keywords that never constrain; those that begin with x- are of this kind as well."""
FORMATS = (
    *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"),
)
NUMBER_FORMATS = ("int32", "int64", "float", "double")
"""OpenAPI's hints for numbers: annotations."""


def check_schema(schema: Any, where: str = "the schema") -> Any:
    """The schema as an object and without annotations. Raises UsageError naming the keyword and its
    place."""
    if schema is False:
        raise UsageError(f"{where} is false: no text fits it")
    try:
        return {} if schema is True else _schema(schema, where, "$", 0)
    except RecursionError as error:
        raise UsageError(f"{where} has a value that is nested too deeply: flatten it") from error


def _schema(schema: Any, where: str, path: str, depth: int) -> Any:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, Mapping):
        raise UsageError(f"{where} at {path} is neither an object nor true or false")
    if depth > MAX_DEPTH:
        raise UsageError(f"{where} is nested deeper than {MAX_DEPTH} schemas: flatten it")
    kept = {}
    for key, value in schema.items():
        if _is_annotation(key, depth) or (key == "uniqueItems" and value is False):
            continue
        kept[key] = _keyword(key, value, where, f"{path}.{key:.60}", depth + 1)
    if fault := _fault(kept):
        raise UsageError(f"{where} at {path}: {fault}")
    return kept


def _is_annotation(key: str, depth: int) -> bool:
    if key in ("$id", "id"):
        return depth == 0  # inside, it would change what $ref means
    return key in ANNOTATION or (key.startswith("x-") and key != "x-guidance")


def _keyword(key: str, value: Any, where: str, path: str, depth: int) -> Any:
    if key in ONE or (key == "items" and not isinstance(value, list)):
        return _schema(value, where, path, depth)
    if key in LIST or key == "items":
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise UsageError(f"{where} at {path} is not a list")
        return [_schema(one, where, f"{path}[{i}]", depth) for i, one in enumerate(value)]
    if key in MAP:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} at {path} is not an object")
        return {
            name: _schema(one, where, f"{path}.{name:.60}", depth) for name, one in value.items()
        }
    if key not in VALUE:
        raise UsageError(f"{where} at {path}: the keyword {key!r:.60} cannot be enforced")
    return value


def _fault(schema: Mapping[str, Any]) -> str | None:
    """What makes the keywords of one schema impossible to enforce."""
    for check in _CHECKS:
        if fault := check(schema):
            return fault
    return None


def _reference(schema: Mapping[str, Any]) -> str | None:
    ref = schema.get("$ref", "#")
    if not isinstance(ref, str) or not ref.startswith("#"):
        return f"$ref {ref!r:.80} cannot be enforced: only references that begin with # are"
    return None


def _pattern(schema: Mapping[str, Any]) -> str | None:
    patterns = [schema["pattern"]] if "pattern" in schema else []
    for pattern in (*patterns, *schema.get("patternProperties", ())):
        fault = (
            check_pattern(pattern) or check_weight(pattern)
            if isinstance(pattern, str)
            else "is not text"
        )
        if fault:
            return f"pattern {pattern!r:.80} cannot be enforced: it {fault}"
    return None


def _constant(schema: Mapping[str, Any]) -> str | None:
    """Control characters have no spelling without \\u escapes, which lark.py tells about."""
    constants = [schema.get("const"), schema.get("enum"), list(schema.get("properties", ()))]
    if _has_control(constants):
        return "a control character in const, enum or a name cannot be enforced"
    return None


def _has_control(value: Any) -> bool:
    if isinstance(value, str):
        return CONTROL.search(value) is not None
    if isinstance(value, Mapping):
        return any(_has_control(key) or _has_control(item) for key, item in value.items())
    return isinstance(value, Sequence) and any(map(_has_control, value))


def _format(schema: Mapping[str, Any]) -> str | None:
    known: Sequence[Any] = FORMATS
    if schema.get("type") in ("integer", "number"):
        known = (*FORMATS, *NUMBER_FORMATS)
    if "format" in schema and schema["format"] not in known:
        return f"format {schema['format']!r:.60} cannot be enforced: {', '.join(FORMATS)} are"
    return None


def _multiple(schema: Mapping[str, Any]) -> str | None:
    """0.1 is no binary fraction: validators disagree on whether 0.3 is a multiple of it."""
    from decimal import Decimal

    step = schema.get("multipleOf", 1)
    if isinstance(step, float) and Decimal(repr(step)) != Decimal(step):
        return f"multipleOf {step} cannot be enforced: whole numbers and binary fractions are"
    return None


def _properties(schema: Mapping[str, Any]) -> str | None:
    """A name outside `properties` may come twice and then counts once."""
    least, required = schema.get("minProperties", 0), schema.get("required", ())
    if isinstance(least, int) and isinstance(required, Sequence):
        if least > max(1, len(set(map(str, required)))):
            return f"minProperties {least} cannot be enforced: name as many in required"
        return None
    return f"minProperties {least!r:.40} or required {required!r:.40} is of a wrong type"


_CHECKS: tuple[Callable[[Mapping[str, Any]], str | None], ...] = (
    _reference,
    _pattern,
    _constant,
    _format,
    _multiple,
    _properties,
)
