"""`tools` and `tool_choice`: what is taken, and that every refusal names its field."""

from __future__ import annotations

from typing import Any

import pytest

from qwell.errors import UsageError
from qwell.text.tool_request import ToolChoice, read_tool_choice, read_tools

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def test_tools_are_read() -> None:
    raw = [tool("get_weather", parameters=SCHEMA, strict=True, description="d"), tool("b-2")]
    first, second = read_tools(raw)
    assert (first.name, first.parameters, first.strict) == ("get_weather", SCHEMA, True)
    assert first.raw is raw[0]
    assert (second.name, second.parameters, second.strict) == ("b-2", {"type": "object"}, False)


@pytest.mark.parametrize("nothing", [None, []])
def test_no_tools(nothing: Any) -> None:
    assert read_tools(nothing) == ()


def test_a_schema_without_a_type_is_an_objects() -> None:
    [spec] = read_tools([tool(parameters={"properties": {}})])
    assert spec.parameters == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    "tools,field",
    [
        ({}, "tools"),
        ("f", "tools"),
        ([tool(f"f{i}") for i in range(129)], "tools has 129"),
        ([1], "tools[0]"),
        ([{"function": {"name": "f"}}], "tools[0].type"),
        ([tool(), {"type": "retrieval"}], "tools[1].type"),
        ([{"type": "function"}], "tools[0].function"),
        ([{"type": "function", "function": {}}], "tools[0].function.name"),
        ([tool("a b")], "tools[0].function.name"),
        ([tool("é")], "tools[0].function.name"),
        ([tool("a" * 65)], "tools[0].function.name"),
        ([tool("f\n")], "tools[0].function.name"),
        ([tool(), tool()], "tools[1].function.name"),
        ([tool(description=1)], "tools[0].function.description"),
        ([tool(strict="yes")], "tools[0].function.strict"),
        ([tool(parameters=True)], "tools[0].function.parameters"),
        ([tool(parameters={"type": "string"})], "tools[0].function.parameters.type"),
    ],
)
def test_wrong_tools_are_refused_by_field(tools: Any, field: str) -> None:
    with pytest.raises(UsageError) as error:
        read_tools(tools)
    assert str(error.value).startswith(field) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "choice,expected",
    [
        (None, ToolChoice("auto")),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice("named", "f")),
    ],
)
def test_choices(choice: Any, expected: ToolChoice) -> None:
    assert read_tool_choice(choice, read_tools([tool()])) == expected


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_without_tools_the_reply_is_text(choice: Any) -> None:
    assert read_tool_choice(choice, ()) == ToolChoice("none")


@pytest.mark.parametrize(
    "choice,field",
    [
        ("any", "tool_choice"),
        (1, "tool_choice"),
        ({"type": "allowed_tools"}, "tool_choice.type"),
        ({"type": "function"}, "tool_choice.function"),
        ({"type": "function", "function": {}}, "tool_choice.function.name"),
        ({"type": "function", "function": {"name": "g"}}, "tool_choice.function.name"),
    ],
)
def test_wrong_choices_are_refused_by_field(choice: Any, field: str) -> None:
    with pytest.raises(UsageError, match=f"^{field} ") as error:
        read_tool_choice(choice, read_tools([tool()]))
    assert "\n" not in str(error.value)


def test_required_needs_tools() -> None:
    with pytest.raises(UsageError, match="tools is empty"):
        read_tool_choice("required", ())
