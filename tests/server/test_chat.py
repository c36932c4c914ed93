"""Chats over HTTP: whole and streamed replies say the same; parameters do what they say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.tiny import make_llm
from tests.server.live import Live, chat_tokenizer, error_of, live, random_llm, says

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(random_llm()) as found:
        yield found


@pytest.fixture(scope="module")
def talker() -> Iterator[Live]:
    with live(says("Hello there, friend.")) as found:
        yield found


def test_a_reply(talker: Live) -> None:
    reply = talker.chat().json()
    assert reply["object"] == "chat.completion"
    [choice] = reply["choices"]
    assert choice["message"]["content"] == "Hello there, friend."
    assert choice["finish_reason"] == "stop"
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert "qwell" not in reply


def test_a_stream_says_what_the_whole_says(server: Live) -> None:
    body = {"messages": HI, "max_tokens": 24, "n": 3, "seed": 5, "temperature": 1, "logprobs": True}
    whole = server.post("/v1/chat/completions", body).json()
    chunks = server.events(
        "/v1/chat/completions", body | {"stream_options": {"include_usage": True}}
    )
    for index in range(3):
        mine = [
            c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == index
        ]
        assert mine[0]["delta"]["role"] == "assistant"
        text = "".join(part["delta"].get("content") or "" for part in mine)
        assert text == whole["choices"][index]["message"]["content"]
        tokens = [t for part in mine if part["logprobs"] for t in part["logprobs"]["content"]]
        assert tokens == whole["choices"][index]["logprobs"]["content"]
        assert [p["finish_reason"] for p in mine if p["finish_reason"]] == ["length"]
    assert chunks[-1]["choices"] == []
    cached = [told["usage"].pop("prompt_tokens_details") for told in (chunks[-1], whole)]
    assert chunks[-1]["usage"] == whole["usage"]
    assert cached == [{"cached_tokens": 64}, {"cached_tokens": 0}]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_the_same_seed_gives_the_same_reply(server: Live) -> None:
    how = {"seed": 11, "temperature": 1.2, "max_tokens": 12}
    first, again = (server.chat(**how).json()["choices"][0]["message"] for _ in range(2))
    assert first == again


def test_stop_strings_end_the_reply(talker: Live) -> None:
    [choice] = talker.chat(stop=[", "]).json()["choices"]
    assert choice["message"]["content"] == "Hello there"
    assert choice["finish_reason"] == "stop"


def test_a_partial_turn_goes_on(talker: Live) -> None:
    messages = [*HI, {"role": "assistant", "content": "Hello the", "partial": True}]
    reply = talker.post("/v1/chat/completions", {"messages": messages}).json()
    assert reply["choices"][0]["message"]["content"] == "re, friend."


def test_the_truth_block_tells_what_was_done(server: Live) -> None:
    fields = {"top_p": 0.5, "seed": 3, "max_tokens": 4, "user": "me", "colour": 1}
    truth = server.chat(**fields, qwell={"truth": True}).json()["qwell"]["truth"]
    assert truth["sampling"]["top_p"] == {"value": 0.5, "from": "request"}
    assert truth["sampling"]["temperature"]["from"] == "model"
    assert truth["sampling"]["seed"] == {"value": 3, "from": "request"}
    assert truth["system_prompt"] == "template default"
    assert truth["template"].startswith("sha256:")
    assert sorted(truth["ignored"]) == ["colour", "user"]
    assert truth["choices"][0]["finish_reason"] == "length"
    assert truth["prompt_tokens_sent"] == truth["prompt_tokens_used"]
    assert truth["adapter"] is None


def test_the_truth_block_names_the_adapter() -> None:
    llm = make_llm(tokenizer=chat_tokenizer(), adapter_id="0123456789abcdef")
    with live(llm) as server:
        reply = server.chat(max_tokens=1, qwell={"truth": True}).json()
    assert reply["qwell"]["truth"]["adapter"] == "0123456789abcdef"


def test_a_stream_carries_the_truth_once(server: Live) -> None:
    body = {"messages": HI, "max_tokens": 3, "n": 2, "qwell": {"truth": True}}
    chunks = server.events("/v1/chat/completions", body)
    [told] = [chunk["qwell"]["truth"] for chunk in chunks if "qwell" in chunk]
    assert [end["index"] for end in told["choices"]] == [0, 1]


def test_strict_mode_refuses_unknown_fields_and_takes_known_ones(server: Live) -> None:
    strict = {"X-Qwell-Strict": "1"}
    body = {"messages": HI, "max_tokens": 1, "user": "me"}
    path = "/v1/chat/completions"
    assert server.post(path, body, headers=strict).status_code == 200
    reply = server.post(path, {**body, "colour": 1}, headers=strict)
    assert reply.status_code == 400
    assert error_of(reply)["param"] == "colour"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 10**9}, "n"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "max_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 10**6}, "top_logprobs"),
        ({"stop": ["x"] * 10_000}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"100000": 1}}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "god", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"stream": "yes"}, "stream"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tools": [{"type": "x"}]}, "tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"qwell": {"truth": 1}}, "qwell.truth"),
        ({"model": "gpt-4"}, "model"),
    ],
)
def test_a_wrong_field_is_named(server: Live, fields: dict, param: str) -> None:
    reply = server.chat(**fields)
    assert reply.status_code == (404 if "model" in fields else 400), reply.text
    assert error_of(reply)["param"] == param


def test_a_prompt_longer_than_the_context_is_refused_with_counts(server: Live) -> None:
    reply = server.chat("x" * 3000)
    assert reply.status_code == 400
    assert error_of(reply)["code"] == "context_length_exceeded"
    assert "512" in error_of(reply)["message"]


def test_fields_without_effect_are_told_in_a_header(server: Live) -> None:
    odd = {"grün\n": 2, "": 3, " x": 4}
    reply = server.chat(max_tokens=1, user="me", colour=1, **odd)
    told = reply.headers["x-qwell-ignored"]
    assert told == 'colour, "gr\\u00fcn", "", "x", user'
    assert "x-qwell-ignored" not in server.chat(max_tokens=1).headers
    body = {"messages": HI, "max_tokens": 1, "stream": True, "colour": 1}
    reply = server.post("/v1/chat/completions", body)
    assert reply.headers["x-qwell-ignored"] == "colour"
    reply = server.post("/tokenize", {"prompt": "a", "colour": 1})
    assert reply.headers["x-qwell-ignored"] == "colour"
    many = {f"x{i:02}": 1 for i in range(100)}
    assert server.chat(max_tokens=1, **many).headers["x-qwell-ignored"].endswith("and 84 more")


def test_a_request_may_step_back_but_not_forward(server: Live) -> None:
    assert server.chat(max_tokens=1, qwell={"priority": -5}).status_code == 200
    assert error_of(server.chat(qwell={"priority": 1}))["param"] == "qwell.priority"
