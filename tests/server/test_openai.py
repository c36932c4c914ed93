"""OpenAI's own client against a real server: what its users rely on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest

from tests.server.live import Live, live, random_llm, says

HI = [{"role": "user", "content": "hi"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"enum": [1, 2]}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 2}}\n</tool_call>'


def client(server: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def talker() -> Iterator[openai.OpenAI]:
    with live(says("Hello there, friend.")) as server, client(server) as found:
        yield found


@pytest.fixture(scope="module")
def caller() -> Iterator[openai.OpenAI]:
    with live(says(f"Let me see. {CALL}")) as server, client(server) as found:
        yield found


def test_chat_whole_and_streamed(talker: openai.OpenAI) -> None:
    whole = talker.chat.completions.create(model="tiny", messages=HI)
    assert whole.choices[0].message.content == "Hello there, friend."
    stream = talker.chat.completions.create(
        model="tiny", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello there, friend."
    assert chunks[-1].usage and whole.usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_models(talker: openai.OpenAI) -> None:
    assert [model.id for model in talker.models.list()] == ["tiny"]
    assert talker.models.retrieve("tiny").id == "tiny"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_the_model_chose(caller: openai.OpenAI, stream: bool) -> None:
    with caller.chat.completions.stream(model="tiny", messages=HI, tools=[TOOL]) as events:
        told = events.get_final_completion() if stream else None
    whole = told or caller.chat.completions.create(model="tiny", messages=HI, tools=[TOOL])
    [choice] = whole.choices
    assert choice.finish_reason == "tool_calls"
    assert (choice.message.content or "").strip() == "Let me see."
    assert choice.message.tool_calls
    [call] = choice.message.tool_calls
    assert call.type == "function" and call.function.name == "add" and call.id
    assert json.loads(call.function.arguments) == {"a": 3, "b": 2}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_a_forced_call_is_valid_whatever_the_model_wants(choice: object) -> None:
    with live(random_llm(2048)) as server, client(server) as asked:
        found = asked.chat.completions.create(
            model="tiny", messages=HI, tools=[TOOL], tool_choice=choice, max_tokens=150, seed=1
        )
    [reply] = found.choices
    if reply.finish_reason == "length":  # a random model may count digits for long
        return
    assert reply.message.tool_calls
    arguments = json.loads(reply.message.tool_calls[0].function.arguments)
    assert isinstance(arguments["a"], int) and arguments["b"] in (1, 2)


def test_a_schema_is_kept_by_a_model_that_would_not() -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "done": {"type": "boolean"}},
        "required": ["colour", "done"],
        "additionalProperties": False,
    }
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    with live(random_llm(2048)) as server, client(server) as someone:
        found = someone.chat.completions.create(
            model="tiny", messages=HI, response_format=asked, temperature=1, seed=4, max_tokens=400
        )
    [reply] = found.choices
    if reply.finish_reason != "length":
        value = json.loads(reply.message.content or "")
        assert value["colour"] in ("red", "blue") and isinstance(value["done"], bool)


def test_completions_with_echo_lists_and_logprobs(talker: openai.OpenAI) -> None:
    found = talker.completions.create(
        model="tiny", prompt=["ab", "abc"], echo=True, logprobs=1, max_tokens=1, temperature=0
    )
    for text, choice in zip(("ab", "abc"), found.choices, strict=True):
        assert choice.text.startswith(text) and choice.logprobs
        assert choice.logprobs.token_logprobs and choice.logprobs.token_logprobs[0] is None


def test_errors_are_of_the_right_kind(talker: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        talker.chat.completions.create(model="tiny", messages=HI, temperature=9)
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        talker.chat.completions.create(model="gpt-4", messages=HI)
    with pytest.raises(openai.BadRequestError, match="shorten the prompt"):
        talker.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "x" * 9000}]
        )
