"""Grammars: what they let through, force and refuse, and the replies that follow them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qwell
from qwell.engine.grammar import Grammar, GrammarCompiler
from qwell.engine.grammar_spec import MAX_BYTES, GrammarSpec
from qwell.engine.llm import LLM
from qwell.engine.pattern import check_weight
from qwell.engine.types import SamplingParams
from qwell.errors import QwellError, UsageError
from qwell.text.tool_request import ToolChoice, ToolSpec, read_tools
from qwell.text.tools import parse_tool_calls
from tests.engine import random_reply as random
from tests.engine.random_reply import TOKENIZER, allowed
from tests.engine.tiny import EOS, NUM_TOKENS, Rowwise, Scripted, byte_ids, make_llm

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


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return random.compiler()


def takes(grammar: Grammar, text: str) -> bool:
    """The whole text, and it may end there."""
    for token in TOKENIZER.encode(text, allow_special=True):
        if not allowed(grammar)[token]:
            return False
        grammar.advance(token)
    return grammar.is_done or bool(allowed(grammar)[EOS])


def test_there_are_enough_schemas() -> None:
    assert len(SCHEMAS) >= 50


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_replies_fit_real_schemas(compiler: GrammarCompiler, name: str) -> None:
    refusal, ended = random.outcome(SCHEMAS[name], compiler, 12, "draft2020-12")
    assert (refusal, ended > 0) == ("", True)


@pytest.mark.parametrize("draft", random.DRAFTS)
def test_random_replies_fit_the_official_suite(compiler: GrammarCompiler, draft: str) -> None:
    if random.suite_folder() is None:
        pytest.skip("the official test suite cannot be fetched")
    checked = [
        random.outcome(schema, compiler, 8, draft)[1] for _, _, schema in random.suite(draft)
    ]
    assert sum(checked) > 1000 and sum(1 for count in checked if count) > 130


@pytest.mark.parametrize(
    "schema,fits,misfits",
    [
        (PERSON, ['{"name": "é", "age": 3}', '{"name":"","age":0}'], ['{"age": 3, "name": "x"}']),
        (PERSON, ['{\n  "name": "x",\n  "age": 3\n}'], ['{"name": "x", "age": -1}', "{}", ""]),
        # Another spelling of a name must not get past its schema.
        ({"properties": {"a": {"type": "integer"}}, "type": "object"}, ['{"a":1,"b":"x"}'],
         ['{"\\u0061":"x"}', '{"a":1,"a":"x"}', '{"b":1,"a":"x"}']),
        (True, ["[1, null]"], ["[1,"]),
        ({"type": "object"}, ["{" + " " * 40 + "}"], ["{" + " " * 41 + "}"]),
        ({"type": "string", "pattern": "^[^\\x00-\\x1f]+$"}, ['"a"'], ['""', '"\\n"']),
    ],
)  # fmt: skip
def test_texts(compiler: GrammarCompiler, schema: Any, fits: list[str], misfits: list[str]) -> None:
    for text in fits:
        assert takes(compiler.compile(GrammarSpec.json_schema(schema)), text), text
    for text in misfits:
        assert not takes(compiler.compile(GrammarSpec.json_schema(schema)), text), text


REFUSED: list[tuple[Any, str]] = [
    ({"not": {}}, "at $.not: the keyword 'not'"),
    ({"properties": {"a": {"items": [{"if": True}]}}}, "at $.properties.a.items[0].if"),
    ({"nullable": True}, "'nullable'"),
    ({"type": "string", "x-guidance": {"lenient": True}}, "'x-guidance'"),
    ({"minProperties": 2}, "minProperties 2"),
    ({"multipleOf": 0.01}, "multipleOf 0.01"),
    ({"$ref": "other.json"}, "$ref 'other.json'"),
    ({"$ref": "#/$defs/none"}, "cannot be enforced"),
    ({"$ref": "#"}, "no text fits"),
    ({"properties": {"a": {"$id": "a.json"}}}, "'$id'"),
    ({"format": "idn-email"}, "format 'idn-email'"),
    ({"type": "string", "format": "int32"}, "format 'int32'"),
    ({"pattern": "(?=a)"}, "pattern '(?=a)'"),
    ({"pattern": "\\D"}, "pattern"),
    ({"pattern": "[^\\w]"}, "pattern"),
    ({"pattern": "a++"}, "pattern"),
    ({"pattern": "[a&&b]"}, "pattern"),
    ({"pattern": "\\x01"}, "control character"),
    ({"pattern": "[\\x01-\\x02]"}, "control character"),
    ({"pattern": "(?i)a"}, "pattern"),
    ({"pattern": "\\p{L}"}, "pattern"),
    ({"pattern": "a{,3}"}, "pattern"),
    ({"patternProperties": {"(": {}}}, "cannot be enforced"),
    ({"enum": ["a\0b"]}, "control character"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf may overlap"),
    ({"type": "strin"}, "strin"),
    ({"items": 3}, "at $.items"),
    ({"anyOf": {}}, "at $.anyOf is not a list"),
    ({"properties": []}, "at $.properties is not an object"),
    (False, "false"),
    ("{", "not JSON"),
    ("3", "neither an object"),
    ('{"const": "\\ud800"}', "cannot be enforced"),
    ({"const": object()}, "not JSON"),
    ({"enum": [float("nan")]}, "not JSON"),
    ({1: 2}, "'1'"),
    ('{"const": ' + "[" * 900 + "]" * 900 + "}", "the schema"),
    ({"description": "x" * MAX_BYTES, "const": "x" * MAX_BYTES}, "at most"),
]


@pytest.mark.parametrize("schema,why", REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_be_enforced_is_refused_by_name(
    compiler: GrammarCompiler, schema: Any, why: str
) -> None:
    with pytest.raises(UsageError) as error:
        compiler.compile(GrammarSpec.json_schema(schema))
    assert why in str(error.value) and "\n" not in str(error.value)


def test_annotations_are_taken(compiler: GrammarCompiler) -> None:
    schema = {"type": "integer", "format": "int32", "title": "t", "x-y": 1, "uniqueItems": False}
    assert GrammarSpec.json_schema({"$id": "a", **schema}) == GrammarSpec.json_schema(
        {"type": "integer", "format": "int32"}
    )


def nested(depth: int) -> str:
    return '{"items":' * depth + "true" + "}" * depth


BOMBS = {
    "deep": nested(100_000),
    "a little deep": nested(60),
    "wide": json.dumps({"properties": {f"p{i}": {"type": "string"} for i in range(5000)}}),
    "patterns that all hold": json.dumps(
        {"allOf": [{"type": "string", "pattern": f"(.*{c}){{5}}"} for c in "abcdefghijklmnopqrst"]}
    ),
    "multiples": json.dumps(
        {"properties": {f"p{i}": {"type": "integer", "multipleOf": 9000 + i} for i in range(100)}}
    ),
    "product of choices": json.dumps(
        {"allOf": [{"anyOf": [{"properties": {f"a{i}": {"const": j}}} for j in range(10)]}
                   for i in range(10)]}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_schema_bomb_is_refused_in_time(compiler: GrammarCompiler, name: str) -> None:
    """CPU time of this process and its children: a busy machine must not fail the test."""
    before = time.process_time(), sum(time_of_children())
    with pytest.raises(UsageError):
        compiler.compile(GrammarSpec.json_schema(BOMBS[name]))
    spent = time.process_time() - before[0] + sum(time_of_children()) - before[1]
    assert spent < 2


def time_of_children() -> tuple[float, float]:
    import os

    times = os.times()
    return times.children_user, times.children_system


def test_forced_tokens_are_the_only_way(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(GrammarSpec.json_schema({"const": {"abc": "stop"}}))
    grammar.advance(TOKENIZER.encode("{")[0])
    while not grammar.is_done:
        for token in grammar.forced():
            assert allowed(grammar)[token]
            grammar.advance(token)
        if not grammar.is_done:
            grammar.advance(int(np.flatnonzero(allowed(grammar))[0]))


def test_the_first_tokens_are_forced_too() -> None:
    """The model would spell it in letters; the grammar's own way is one token."""
    done = json_llm("stop abc").generate([97], grammar=GrammarSpec.regex("stop abc"))
    assert done.token_ids == tuple(TOKENIZER.encode("stop abc"))


def test_a_wrong_token_is_an_error(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(GrammarSpec.regex("[0-9]"))
    with pytest.raises(QwellError, match=r"^the grammar failed on the way: [^\n]*$"):
        grammar.advance(TOKENIZER.encode("a")[0])


def test_the_same_spec_is_compiled_once(compiler: GrammarCompiler) -> None:
    first = compiler.compile(GrammarSpec.regex("ab"))
    first.advance(TOKENIZER.encode("ab")[0])
    assert first.is_done and not compiler.compile(GrammarSpec.regex("ab")).is_done


@pytest.mark.parametrize(
    "grammar,why",
    [
        ("start: x", "x"),
        ('start: %json {"not": {}}', "'not'"),
        ("start: %json {", "not JSON"),
        ("start: a\na[temperature=0.5]: /x/", "temperature="),
        ('start: a\na[stop="x"]: /.*/', "stop="),
    ],
)
def test_lark_is_checked(compiler: GrammarCompiler, grammar: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        compiler.compile(GrammarSpec.lark(grammar))


def test_lark_regex_and_schema(compiler: GrammarCompiler) -> None:
    lark = 'start: "a" b+\nb: /[0-9]/ | %json {"enum": [true], "title": "t"}'
    assert takes(compiler.compile(GrammarSpec.lark(lark)), "a1true2")
    assert not takes(compiler.compile(GrammarSpec.lark(lark)), "a")
    with pytest.raises(UsageError, match="regex"):
        compiler.compile(GrammarSpec.regex("(?=a)"))


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
        (tools_spec(ToolChoice("named", "get_time")), [CLOCK], [WEATHER]),
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


def json_llm(text: str, **over: Any) -> LLM:
    """A model that would like to say this, token by token, after a prompt of one token."""
    script = [*byte_ids(text), EOS]
    return make_llm(Scripted(lambda known: script[min(len(known) - 1, len(script) - 1)]), **over)


OBJECT = GrammarSpec.json_schema({"const": {"abc": 1}})


def test_a_reply_follows_its_grammar_and_ends_with_it() -> None:
    llm = json_llm("no way out of it, says the model")
    done = llm.generate([97], grammar=OBJECT, max_tokens=60)
    assert json.loads(done.text) == {"abc": 1}
    assert (done.finish_reason, done.stop_reason) == ("stop", None)
    assert EOS not in done.token_ids and done.usage.completion_tokens == len(done.token_ids)


def test_forced_tokens_cost_no_step_and_are_reply_rows() -> None:
    backend = Rowwise()
    llm = make_llm(backend)
    done = llm.generate(
        [97, 98], grammar=GrammarSpec.regex("stop stop stop stop[ab]"), max_tokens=60
    )
    assert done.text[:-1] == "stop stop stop stop"
    assert len(backend.batches) < len(done.token_ids)
    assert all(batch.prompt_len.tolist() == [2] for batch in backend.batches)
    asked = sum(len(batch.out_rows) for batch in backend.batches)
    assert asked < len(done.token_ids), "only chosen tokens need logits"


def test_logprobs_come_from_real_logits_and_change_no_token() -> None:
    spec = GrammarSpec.regex("(stop stop[ab] stop[ab]{5}){4}")
    llm = make_llm(Rowwise())
    plain = llm.generate([97, 98], grammar=spec, temperature=2, seed=5)
    told = llm.generate([97, 98], grammar=spec, temperature=2, seed=5, logprobs=0)
    assert told.token_ids == plain.token_ids and told.logprobs is not None
    own = llm.logprobs([97, 98, *told.token_ids])[2:]
    assert [entry.logprob for entry in told.logprobs] == pytest.approx(own.tolist(), rel=1e-5)


def test_forced_rows_at_once_or_one_by_one_give_the_same() -> None:
    """max_rows cuts the forced rows into other chunks, pages force a request to start again."""
    spec = GrammarSpec.regex("(stop abc){3}[a-z]{8}")
    wide = make_llm(Rowwise()).generate([97, 98], grammar=spec, temperature=1, seed=3)
    narrow = make_llm(Rowwise(), max_rows=2, max_seqs=1)
    assert (
        narrow.generate([97, 98], grammar=spec, temperature=1, seed=3).token_ids == wide.token_ids
    )


def test_replies_in_company_equal_the_lone_ones() -> None:
    specs = [GrammarSpec.regex("(stop ){4}[a-z]{6}"), None, OBJECT, GrammarSpec.regex("[0-9]{9}")]
    params = [SamplingParams(seed=i, max_tokens=20, grammar=spec) for i, spec in enumerate(specs)]
    lone = [make_llm(Rowwise()).generate([97, i + 1], one) for i, one in enumerate(params)]
    llm = make_llm(Rowwise())
    streams = [llm.stream([97, i + 1], one) for i, one in enumerate(params)]
    for stream, expected in zip(streams, lone, strict=True):
        *_, last = stream
        assert last.completion and last.completion.token_ids == expected.token_ids


def test_cut_json_ends_with_length_and_stop_strings_still_cut() -> None:
    llm = json_llm('{"name": "abcdef", "age": 3}')
    spec = GrammarSpec.json_schema(PERSON)
    assert llm.generate([97], grammar=spec, max_tokens=4).finish_reason == "length"
    cut = llm.generate([97], grammar=spec, stop=("cd",))
    assert (cut.text, cut.stop_reason) == ('{"name": "ab', "cd")
    whole = llm.generate([97], grammar=spec)
    assert json.loads(whole.text) == {"name": "abcdef", "age": 3}


def test_max_tokens_counts_forced_tokens_and_wholeness_wins() -> None:
    whole = json_llm("x").generate([97], grammar=OBJECT)
    cut = json_llm("x").generate([97], grammar=OBJECT, max_tokens=len(whole.token_ids) - 1)
    assert cut.finish_reason == "length" and cut.token_ids == whole.token_ids[:-1]
    exact = json_llm("x").generate([97], grammar=OBJECT, max_tokens=len(whole.token_ids))
    assert exact.finish_reason == "stop"


def test_a_grammar_that_fails_ends_its_own_request(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = make_llm(Rowwise())
    good = llm.stream([97], max_tokens=3)
    bad = llm.stream([98], max_tokens=3, grammar=OBJECT)
    monkeypatch.setattr(Grammar, "mask", lambda self: self.advance(EOS))
    with pytest.raises(QwellError):
        list(bad)
    assert list(good)[-1].completion


def test_stream_refuses_before_it_begins() -> None:
    with pytest.raises(UsageError, match="cannot be enforced"):
        make_llm().stream([97], grammar=GrammarSpec.regex("("))
    with pytest.raises(UsageError, match="ignore_eos"):
        SamplingParams(grammar=OBJECT, ignore_eos=True)
    with pytest.raises(UsageError, match="GrammarSpec"):
        SamplingParams(grammar={"type": "object"})  # type: ignore[arg-type]


def test_mask_words_cover_the_vocabulary(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(GrammarSpec.regex("."))
    assert grammar.mask().dtype == np.int32 and len(grammar.mask()) == -(-NUM_TOKENS // 32)
    assert not allowed(grammar)[EOS]


@pytest.fixture(scope="module")
def real() -> Iterator[LLM]:
    yield qwell.load("qwen2.5-coder:0.5b", ctx=2048)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_real_replies_fit(real: LLM, temperature: float) -> None:
    """Every fifth schema; a reply that was cut may be incomplete, one that ended may not."""
    ended = 0
    for name, schema in list(SCHEMAS.items())[::5]:
        spec = GrammarSpec.json_schema(schema)
        ask = f"Write one example of a {name.partition('.')[2]} as JSON."
        done = real.chat(ask, grammar=spec, max_tokens=300, temperature=temperature, seed=1)
        if done.finish_reason == "stop":
            random.validator(schema).validate(json.loads(done.text))
            ended += 1
    assert ended >= 6


@pytest.mark.slow
@pytest.mark.weights
def test_real_calls_are_made_when_required(real: LLM) -> None:
    spec = GrammarSpec.tool_calls(TOOLS, ToolChoice("required"), parallel=False)
    ask = {"role": "user", "content": "What is the weather in Oslo?"}
    done = real.chat([ask], tools=[tool.raw for tool in TOOLS], grammar=spec, temperature=0)
    [call] = parse_tool_calls(done.text).calls
    assert call.name == "get_weather" and json.loads(call.arguments)["city"] == "Oslo"


@pytest.mark.parametrize(
    "pattern", ["(a{1000}){1000}", "((a{1,200}){99}){9}", "(?:[ab]{3000,}c){70}", "a{999999999999}"]
)
def test_a_regex_that_would_be_huge_is_refused_at_once(pattern: str) -> None:
    with pytest.raises(UsageError, match="has repeats"):
        GrammarSpec.regex(pattern)
    with pytest.raises(UsageError, match="has repeats"):
        GrammarSpec.json_schema({"type": "string", "pattern": pattern})
    with pytest.raises(UsageError, match="has repeats"):
        GrammarSpec.lark(f"start: /{pattern}/")


@pytest.mark.parametrize("pattern", [r"a{5000}", r"[{(9]{3}\{99999\}", "(x{40}){40}", "(((a"])
def test_a_regex_of_fair_size_is_not(pattern: str) -> None:
    assert check_weight(pattern) is None
