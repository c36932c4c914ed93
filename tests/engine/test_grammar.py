"""Grammars: what they let through, force and refuse."""

from __future__ import annotations

import json
import time
from random import Random
from typing import Any

import numpy as np
import pytest

from qwell.engine.grammar import GrammarCompiler
from qwell.engine.grammar_spec import MAX_BYTES, GrammarSpec
from qwell.engine.pattern import check_weight
from qwell.errors import QwellError, UsageError
from tests.engine import random_reply as random
from tests.engine.grammars import PERSON, SCHEMAS, takes
from tests.engine.random_reply import TOKENIZER, allowed
from tests.engine.tiny import EOS, NUM_TOKENS


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
    seen = 0
    while not grammar.is_done:
        for token in grammar.forced():
            assert np.flatnonzero(allowed(grammar)).tolist() == [token]
            grammar.advance(token)
            seen += 1
        if not grammar.is_done:
            grammar.advance(int(np.flatnonzero(allowed(grammar))[0]))
    assert seen > 0


def test_a_wrong_token_is_an_error(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(GrammarSpec.regex("[0-9]"))
    with pytest.raises(QwellError, match=r"^the grammar failed on the way: [^\n]*$"):
        grammar.advance(TOKENIZER.encode("a")[0])


def test_a_grammar_that_grows_slow_on_the_way_is_ended(compiler: GrammarCompiler) -> None:
    """An ambiguous one takes longer for every token, 0.3 s for the thousandth."""
    grammar, rng = (
        compiler.compile(GrammarSpec.lark('start: e\ne: e e e | e e | "a" | "b"')),
        Random(1),
    )
    begin, tokens = time.thread_time(), 0
    with pytest.raises(UsageError, match="too long for every token"):
        while tokens < 1000:
            tokens += 1
            grammar.mask()
            grammar.advance(TOKENIZER.encode(rng.choice("ab"))[0])
    assert time.thread_time() - begin < 2 + 0.01 * tokens


def test_a_fair_grammar_is_not_ended_however_long_its_reply(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(GrammarSpec.json_schema({"type": "string"}))
    for char in '"' + "ab" * 1500 + '"':
        grammar.mask()
        grammar.advance(TOKENIZER.encode(char)[0])
    assert grammar.is_done


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
    for wrong in (GrammarSpec.regex("[a"), GrammarSpec.lark("start: /[a/")):
        with pytest.raises(UsageError, match=r'enforced: unclosed character class in "\[a"$'):
            compiler.compile(wrong)


def test_mask_words_cover_the_vocabulary(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(GrammarSpec.regex("."))
    assert grammar.mask().dtype == np.int32 and len(grammar.mask()) == -(-NUM_TOKENS // 32)
    assert not allowed(grammar)[EOS]


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
