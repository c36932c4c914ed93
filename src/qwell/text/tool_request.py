"""`tools` and `tool_choice` of a request in OpenAI's shape, checked: what may be called, what must.

Errors are UsageErrors of one line that name the field. Whether a schema can be enforced is known
to engine.grammar, not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwell.errors import UsageError

MAX_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True)
class ToolSpec:
    """One function a model may call."""

    name: str
    parameters: Mapping[str, Any]
    """JSON Schema of the arguments, an object's; without one in the request: any object."""
    strict: bool
    """Arguments must fit the schema even when the model is free to call or not."""
    raw: Mapping[str, Any]
    """The entry of the request, as chat templates show it to the model."""


@dataclass(frozen=True)
class ToolChoice:
    """What the reply must be: `auto` text or calls, `none` text, `required` a call of any tool,
    `named` a call of the tool `name`."""

    mode: str
    name: str | None = None


def read_tools(tools: object) -> tuple[ToolSpec, ...]:
    """The tools of a request; None gives none. Raises UsageError naming the field."""
    if tools is None:
        return ()
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        raise UsageError("tools is not a list")
    if len(tools) > MAX_TOOLS:
        raise UsageError(f"tools has {len(tools)} entries: at most {MAX_TOOLS} are taken")
    specs = tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools))
    names = [spec.name for spec in specs]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UsageError(f"tools[{i}].function.name {name!r} is there twice: rename one")
    return specs


def _tool(tool: object, where: str) -> ToolSpec:
    raw = _object(tool, where)
    if raw.get("type") != "function":
        raise UsageError(f"{where}.type is {raw.get('type')!r:.40}: only 'function' is supported")
    function = _object(raw.get("function"), f"{where}.function")
    strict = function.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise UsageError(f"{where}.function.strict is not true or false")
    if not isinstance(function.get("description", ""), str | None):
        raise UsageError(f"{where}.function.description is not text")
    return ToolSpec(
        name=_name(function.get("name"), f"{where}.function.name"),
        parameters=_parameters(function.get("parameters"), f"{where}.function.parameters"),
        strict=bool(strict),
        raw=raw,
    )


def _parameters(schema: object, where: str) -> Mapping[str, Any]:
    if schema is None:
        return {"type": "object"}
    schema = _object(schema, where)
    if schema.get("type", "object") != "object":
        raise UsageError(f"{where}.type is {schema['type']!r:.40}: arguments are an 'object'")
    return {"type": "object", **schema}


def read_tool_choice(choice: object, tools: Sequence[ToolSpec]) -> ToolChoice:
    """What `tool_choice` asks for; None means auto, or none where there are no tools.

    Raises UsageError naming the field, also for a tool that is not in `tools`.
    """
    if choice is None:
        return ToolChoice("auto" if tools else "none")
    if isinstance(choice, str):
        return _mode(choice, tools)
    choice = _object(choice, "tool_choice")
    if choice.get("type") != "function":
        raise UsageError(
            f"tool_choice.type is {choice.get('type')!r:.40}: only 'function' is supported"
        )
    function = _object(choice.get("function"), "tool_choice.function")
    name = _name(function.get("name"), "tool_choice.function.name")
    if name not in [tool.name for tool in tools]:
        raise UsageError(f"tool_choice.function.name {name!r} is not in tools")
    return ToolChoice("named", name)


def _mode(mode: str, tools: Sequence[ToolSpec]) -> ToolChoice:
    if mode not in ("auto", "none", "required"):
        raise UsageError(
            f"tool_choice is {mode!r:.40}: use 'auto', 'none', 'required' or an object"
        )
    if mode == "required" and not tools:
        raise UsageError("tool_choice is 'required' but tools is empty")
    return ToolChoice(mode if tools else "none")


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} is {'missing' if value is None else 'not an object'}")
    return value


def _name(value: object, where: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UsageError(f"{where} is {value!r:.80}: use 1 to 64 letters, digits, _ or -")
    return value
