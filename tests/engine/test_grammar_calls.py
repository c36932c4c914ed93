"""Grammars of tool calls: what they let through."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qwell.engine.grammar import GrammarCompiler
from qwell.engine.grammar_spec import GrammarSpec
from qwell.engine.lark import MAX_CALLS
from qwell.text.tool_request import ToolChoice, ToolSpec
from qwell.text.tools import parse_tool_calls
from tests.engine import random_reply as random
from tests.engine.grammars import TOOLS, takes
from tests.engine.random_reply import allowed
from tests.engine.tiny import byte_ids

WEATHER = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'
)
CLOCK = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
WRONG = '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>'


def tools_spec(choice: ToolChoice, *, parallel: bool = True, strict: bool = False) -> GrammarSpec:
    tools = [ToolSpec(t.name, t.parameters, strict, t.raw) for t in TOOLS]
    spec = GrammarSpec.tool_calls(tools, choice, parallel=parallel)
    assert spec is not None
    return spec


@pytest.mark.parametrize(
    "spec,fits,misfits",
    [
        (tools_spec(ToolChoice("required")), [WEATHER, CLOCK, f"{CLOCK}\n{WEATHER}"],
         ["", "Hi", WRONG, f"Hi\n{CLOCK}", f"{CLOCK}{CLOCK}", CLOCK.replace("time", "date")]),
        (tools_spec(ToolChoice("required"), parallel=False), [CLOCK], [f"{CLOCK}\n{CLOCK}"]),
        (tools_spec(ToolChoice("named", "get_time")), [CLOCK], [WEATHER, f"{CLOCK}\n{CLOCK}"]),
        (tools_spec(ToolChoice("auto"), strict=True),
         ["", "Hi <b>", CLOCK, f"I look.\n{WEATHER}\n{CLOCK} Done."], [WRONG, f"Hi {WRONG}"]),
        (tools_spec(ToolChoice("auto"), strict=True, parallel=False), [f"Hi\n{CLOCK}"],
         [f"{CLOCK}\n{CLOCK}"]),
    ],
)  # fmt: skip
def test_tool_calls(
    compiler: GrammarCompiler, spec: GrammarSpec, fits: list[str], misfits: list[str]
) -> None:
    for text in fits:
        assert takes(compiler.compile(spec), text), text
    for text in misfits:
        assert not takes(compiler.compile(spec), text), text


def test_a_reply_that_has_to_call_comes_to_an_end(compiler: GrammarCompiler) -> None:
    spec = tools_spec(ToolChoice("required"))
    assert takes(compiler.compile(spec), "\n".join([CLOCK] * MAX_CALLS))
    assert not takes(compiler.compile(spec), "\n".join([CLOCK] * (MAX_CALLS + 1)))


def test_free_text_spells_no_call_by_other_tokens(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(tools_spec(ToolChoice("auto"), strict=True))
    for token in byte_ids("<tool_call"):
        grammar.advance(token)
    assert not allowed(grammar)[byte_ids(">")[0]]


def test_auto_without_strict_tools_enforces_nothing() -> None:
    assert GrammarSpec.tool_calls(TOOLS, ToolChoice("auto")) is None
    assert GrammarSpec.tool_calls(TOOLS, ToolChoice("none")) is None


@pytest.mark.parametrize("parallel", [True, False])
def test_random_calls_parse_and_fit(compiler: GrammarCompiler, parallel: bool) -> None:
    spec = tools_spec(ToolChoice("required"), parallel=parallel)
    ids, seen = np.random.default_rng(1), 0
    checks = {tool.name: random.validator(dict(tool.parameters)) for tool in TOOLS}
    for _ in range(40):
        text = random.random_reply(compiler.compile(spec), ids)
        if text is None:
            continue
        reply = parse_tool_calls(text)
        assert reply.calls and not reply.text and (parallel or len(reply.calls) == 1)
        for call in reply.calls:
            checks[call.name].validate(json.loads(call.arguments))
        seen += 1
    assert seen > 20
