"""`qwell run` with a schema, a regex or a grammar."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.tiny import Run

SCHEMA = '{"enum": [{"a": 1}, {"a": 2}]}'


def test_the_answer_has_the_form_asked_for(run: Run, model: Path) -> None:
    Path("own.json").write_text(SCHEMA)
    Path("own.lark").write_text('start: "x" /[0-9]/+ "y"')
    for schema in (SCHEMA, "own.json"):
        result = run("run", model, "Hi", "--json-schema", schema)
        assert (result.code, json.loads(result.out)["a"] in (1, 2)) == (0, True), result.err
    assert re.fullmatch("(ab|cd){3}\n", run("run", model, "Hi", "--regex", "(ab|cd){3}").out)
    answer = run("run", model, "Hi", "--grammar", "own.lark", "--json", "-n", "20").json
    assert answer["text"].startswith("x") and answer["finish_reason"] in ("stop", "length")
    assert run("run", model, "Hi", "--json-object", "-n", "30").out.startswith("{")


@pytest.mark.parametrize(
    "options,code,why",
    [
        (("--regex", "a", "--json-object"), 2, "give one of"),
        (("--json-schema", '{"not": {}}'), 2, "at $.not: the keyword 'not'"),
        (("--json-schema", "{"), 2, "not JSON"),
        (("--json-schema", "none.json"), 3, "none.json cannot be read"),
        (("--grammar", "none.lark"), 3, "none.lark cannot be read"),
        (("--regex", "("), 2, "regex"),
        (("--json-object", "--ignore-eos"), 2, "ignore_eos"),
    ],
)
def test_faults_are_one_line(
    run: Run, model: Path, options: tuple[str, ...], code: int, why: str
) -> None:
    result = run("run", model, "Hi", *options)
    assert (result.code, len(result.err.splitlines())) == (code, 1)
    assert why in result.err
