"""Replies that follow a grammar: what is forced, counted, cut and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import qwell
from qwell.engine.grammar import Grammar
from qwell.engine.grammar_spec import GrammarSpec
from qwell.engine.llm import LLM
from qwell.engine.types import SamplingParams
from qwell.errors import QwellError, UsageError
from qwell.text.tool_request import ToolChoice
from qwell.text.tools import parse_tool_calls
from tests.engine import random_reply as random
from tests.engine.grammars import PERSON, SCHEMAS, TOOLS
from tests.engine.random_reply import TOKENIZER
from tests.engine.tiny import EOS, Rowwise, Scripted, byte_ids, make_llm


def json_llm(text: str, **over: Any) -> LLM:
    """A model that would like to say this, token by token, after a prompt of one token."""
    script = [*byte_ids(text), EOS]
    return make_llm(Scripted(lambda known: script[min(len(known) - 1, len(script) - 1)]), **over)


OBJECT = GrammarSpec.json_schema({"const": {"abc": 1}})


def test_the_first_tokens_are_forced_too() -> None:
    """The model would spell it in letters; the grammar's own way is one token."""
    done = json_llm("stop abc").generate([97], grammar=GrammarSpec.regex("stop abc"))
    assert done.token_ids == tuple(TOKENIZER.encode("stop abc"))


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
