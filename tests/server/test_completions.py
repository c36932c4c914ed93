"""Raw completions: lists of prompts, echo with log-probabilities, fill-in-the-middle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.engine.tiny import Scripted, make_llm
from tests.server.live import Live, chat_tokenizer, error_of, live, random_llm

PATH = "/v1/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(random_llm()) as found:
        yield found


@pytest.mark.parametrize("prompt", ["abc", [70, 71], ["abc", "de", "f"], [[70], [71, 72]]])
def test_prompts_of_every_form(server: Live, prompt: list) -> None:
    body = {"prompt": prompt, "max_tokens": 3, "n": 2, "seed": 1}
    reply = server.post(PATH, body).json()
    many = isinstance(prompt, list) and not isinstance(prompt[0], int)
    count = 2 * (len(prompt) if many else 1)
    assert [choice["index"] for choice in reply["choices"]] == list(range(count))
    chunks = server.events(PATH, body)
    for index in range(count):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(part["text"] for part in mine) == reply["choices"][index]["text"]


def test_echo_tells_the_log_probabilities_of_the_prompt(server: Live) -> None:
    llm = server.app.served.llm
    ids = llm.tokenizer.encode("abc stop")
    body = {"prompt": ids, "max_tokens": 1, "logprobs": 2, "echo": True, "temperature": 0}
    [choice] = server.post(PATH, body).json()["choices"]
    told = choice["logprobs"]
    assert choice["text"].startswith("abc stop")
    assert len(told["tokens"]) == len(ids) + 1
    assert "".join(told["tokens"][: len(ids)]) == "abc stop"
    assert told["token_logprobs"][0] is None
    assert told["top_logprobs"][0] is None
    np.testing.assert_allclose(told["token_logprobs"][1:-1], llm.logprobs(ids)[1:], atol=1e-5)
    for token, value, top in zip(
        told["tokens"][1:], told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True
    ):
        assert top[token] == value
    offsets = told["text_offset"]
    assert offsets[: len(ids)] == [0, *np.cumsum([len(t) for t in told["tokens"]])[: len(ids) - 1]]
    [streamed] = server.events(PATH, body)
    assert streamed["choices"] == [choice]


def test_echo_alone_writes_nothing(server: Live) -> None:
    reply = server.post(PATH, {"prompt": "abc", "max_tokens": 0, "echo": True}).json()
    assert reply["choices"][0]["text"] == "abc"
    assert reply["usage"]["completion_tokens"] == 0


def test_the_middle_is_filled(server: Live) -> None:
    seen: list[list[int]] = []
    tokenizer = chat_tokenizer()
    ends = tokenizer.special_tokens["<|fim_pad|>"]

    def next_id(known: list[int]) -> int:
        seen.append(known)
        return tokenizer.encode("m")[0] if len(seen) == 1 else ends

    with live(make_llm(Scripted(next_id), tokenizer=tokenizer)) as filler:
        reply = filler.post(PATH, {"prompt": "pre<|im_end|>", "suffix": "post"}).json()
    text = tokenizer.decode(seen[0])
    assert text == "<|fim_prefix|>pre<|im_end|><|fim_suffix|>post<|fim_middle|>"
    assert tokenizer.special_tokens["<|im_end|>"] not in seen[0]
    assert reply["choices"][0]["text"] == "m"
    assert reply["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, None),
        ({"prompt": []}, "prompt"),
        ({"prompt": [70, "x"]}, "prompt[1]"),
        ({"prompt": [[70], []]}, None),
        ({"prompt": [10**6]}, None),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 2}, "prompt"),
        ({"best_of": 4}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"suffix": "x", "echo": True}, "echo"),
        ({"suffix": "x", "prompt": [70]}, "suffix"),
        ({"logprobs": 10**6}, "logprobs"),
        ({"structured_outputs": {"yaml": 1}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "("}}, None),
    ],
)
def test_a_wrong_field_is_named(server: Live, fields: dict, param: str | None) -> None:
    reply = server.post(PATH, {"prompt": "a", **fields})
    assert reply.status_code == 400, reply.text
    assert error_of(reply)["param"] == param


def test_structures_are_kept(server: Live) -> None:
    body = {"prompt": "a", "max_tokens": 40, "temperature": 1}
    for n in range(3):
        how = {"structured_outputs": {"choice": ["one", "two (2)"]}, "seed": n}
        reply = server.post(PATH, {**body, **how}).json()
        assert reply["choices"][0]["text"] in ("one", "two (2)")


def test_text_and_ids_there_and_back(server: Live) -> None:
    text = "stop abc é"
    found = server.post("/tokenize", {"prompt": text, "return_token_strs": True}).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert server.post("/detokenize", {"tokens": found["tokens"]}).json() == {"prompt": text}
    chat = {"messages": [{"role": "user", "content": "hi <|im_end|>"}]}
    shown = server.post("/apply_template", chat).json()
    assert shown["prompt"].endswith("<|im_start|>assistant\n")
    assert server.post("/tokenize", chat).json()["tokens"] == shown["tokens"]
    info = server.http.get("/tokenizer_info").json()
    assert info["eos_token"] == "<|im_end|>"
    assert error_of(server.post("/detokenize", {"tokens": [10**6]}))["param"] == "tokens[0]"
    assert server.post("/tokenize", {}).status_code == 400
