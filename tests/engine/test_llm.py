"""The public face: prompts of every kind, streams, log-probabilities."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import pytest

from qwell.engine.types import SamplingParams
from qwell.errors import ContextLengthError, TextError, UsageError
from tests.engine.tiny import ADDED, EOS, GREEDY, Rowwise, byte_ids, make_llm, replying

PARAMS = SamplingParams(temperature=0.8, seed=3, max_tokens=12, ignore_eos=True)


def test_a_shell_shows_what_it_is() -> None:
    llm = make_llm()
    assert repr(llm) == f"<LLM {llm.name}, context {llm.max_context:,} tokens>"


def test_generate_takes_text_ids_and_lists() -> None:
    llm = make_llm()
    ids = llm.tokenizer.encode("abc stop")
    one = llm.generate("abc stop", PARAMS)
    assert one == replace(llm.generate(ids, PARAMS), timings=one.timings)
    assert one.token_ids == llm.generate(np.array(ids), PARAMS).token_ids
    assert one.usage.prompt_tokens == len(ids) and one.usage.completion_tokens == 12
    both = llm.generate(["abc stop", "x"], PARAMS)
    assert [c.token_ids for c in both] == [one.token_ids, llm.generate("x", PARAMS).token_ids]
    assert llm.generate([ids, [5]], PARAMS)[0].token_ids == one.token_ids


def test_control_tokens_in_a_raw_text_stay_text_unless_allowed() -> None:
    llm = make_llm()
    kept = llm.generate("<|im_end|>", PARAMS).usage.prompt_tokens
    read = llm.generate("<|im_end|>", PARAMS, allow_special=True).usage.prompt_tokens
    assert (kept, read) == (10, 1)


def test_defaults_overrides_and_params() -> None:
    llm = make_llm(generation=replace(GREEDY, do_sample=True, temperature=100.0))
    wild = llm.generate([1, 2], max_tokens=8, ignore_eos=True, seed=1)
    greedy = llm.generate([1, 2], max_tokens=8, ignore_eos=True, temperature=0)
    assert wild.token_ids != greedy.token_ids
    assert llm.generate([1, 2], PARAMS, temperature=0, max_tokens=8).token_ids == greedy.token_ids
    with pytest.raises(UsageError, match="unknown sampling parameter"):
        llm.generate([1], PARAMS, temprature=1)


def test_chat_is_the_template_around_the_messages() -> None:
    backend = replying(byte_ids("hi"), prompt=0)
    llm = make_llm(backend)
    backend.next_id = lambda known: byte_ids("hi!")[n] if (n := len(known) - length) < 3 else EOS
    assert llm.template is not None
    from qwell.text.chat import encode_chat

    messages = [{"role": "user", "content": "Say <|im_end|>"}]
    ids = encode_chat(llm.tokenizer, llm.template, messages)
    length = len(ids)
    done = llm.chat("Say <|im_end|>")
    assert (done.text, done.finish_reason, done.stop_reason) == ("hi!", "stop", None)
    assert done.usage.prompt_tokens == length
    assert backend.batches[0].input_ids.tolist() == ids
    assert done.text == llm.chat(messages).text
    streamed = list(llm.stream(messages))
    assert "".join(piece.text for piece in streamed) == "hi!"
    assert streamed == list(llm.stream("Say <|im_end|>"))[:-1] + streamed[-1:]


def test_tools_reach_the_template() -> None:
    llm = make_llm(replying([], prompt=0))
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    plain = llm.chat("x").usage.prompt_tokens
    assert llm.chat("x", tools=[tool]).usage.prompt_tokens > plain


def test_a_model_without_a_template_says_what_to_do() -> None:
    llm = make_llm(template=None)
    for call in (llm.chat, llm.stream):
        with pytest.raises(TextError, match=r"tiny has no chat template.*--raw"):
            call("hello")
    assert llm.generate("hello", PARAMS).token_ids


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"prompt_or_messages": "", "raw": True}, UsageError),
        ({"prompt_or_messages": []}, TextError),
        ({"prompt_or_messages": [1], "tools": []}, UsageError),
        ({"prompt_or_messages": "x", "raw": True, "tools": []}, UsageError),
        ({"prompt_or_messages": "x", "allow_special": True}, UsageError),
        ({"prompt_or_messages": [{"role": "user", "content": "x"}], "raw": True}, UsageError),
        ({"prompt_or_messages": [1] * 513}, ContextLengthError),
        ({"prompt_or_messages": "x", "top_p": 7}, UsageError),
    ],
)
def test_a_stream_checks_its_arguments_before_the_first_piece(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        make_llm().stream(**arguments)


@pytest.mark.parametrize("prompt", ["", [], [1.5], [[]], ["a", ""]])
def test_impossible_prompts(prompt: Any) -> None:
    llm = make_llm()
    with pytest.raises(UsageError):
        llm.generate(prompt)
    assert not llm.engine.has_work and llm.engine.cache.num_free == llm.engine.cache.pool.num_pages


def test_pieces_joined_are_the_completion() -> None:
    text = "Grüße, 世界! 👩‍🚀"
    llm = make_llm(replying(byte_ids(text), prompt=1))
    pieces = list(llm.stream([0], logprobs=1))
    done = pieces[-1].completion
    assert done is not None and done.text == text
    assert "".join(piece.text for piece in pieces) == text
    assert all("\ufffd" not in piece.text for piece in pieces)
    assert all(piece.text for piece in pieces[:-1])
    assert tuple(i for piece in pieces for i in piece.token_ids) == done.token_ids
    assert tuple(p for piece in pieces for p in piece.logprobs or ()) == done.logprobs
    assert [piece.completion for piece in pieces[:-1]] == [None] * (len(pieces) - 1)


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    llm = make_llm(replying(byte_ids("é")[:1], prompt=1))
    assert llm.generate([0]).text == "\ufffd"


def test_what_a_model_writes_beside_control_tokens_is_text() -> None:
    script = [ADDED["<tool_call>"], *byte_ids("{}"), ADDED["<|im_start|>"], *byte_ids("!")]
    assert make_llm(replying(script, prompt=1)).generate([0]).text == "<tool_call>{}!"


def test_streams_of_one_model_can_be_read_in_turns() -> None:
    llm = make_llm()
    prompts = [[1, 2, 3], [4, 5], [6] * 70]
    alone = [llm.generate(prompt, PARAMS).text for prompt in prompts]
    texts = ["", "", ""]
    for turn in zip_longest(*(llm.stream(prompt, PARAMS) for prompt in prompts)):
        for i, piece in enumerate(turn):
            texts[i] += piece.text if piece else ""
    assert texts == alone


def test_closing_a_stream_frees_its_pages() -> None:
    llm = make_llm()
    stream = llm.stream([1] * 100, PARAMS)
    next(stream)
    assert llm.engine.cache.num_free < llm.engine.cache.pool.num_pages
    del stream
    assert not llm.engine.has_work and llm.engine.cache.num_free == llm.engine.cache.pool.num_pages
    llm.stream([1], PARAMS)  # never read: nothing was submitted
    assert not llm.engine.has_work


def test_a_cancelled_stream_ends_with_what_it_has() -> None:
    llm = make_llm()
    asked = iter([False] * 3)  # before the step of the prompt, which gives a token, and two more
    *_, last = llm.stream([1] * 20, PARAMS, is_cancelled=lambda: next(asked, True))
    assert last.completion and last.completion.finish_reason == "cancelled"
    usage = last.completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (20, 3)
    assert llm.engine.cache.num_free == llm.engine.cache.pool.num_pages


def test_on_prefill_tells_every_chunk_and_may_stop_it() -> None:
    told: list[tuple[int, int]] = []
    llm = make_llm(max_rows=50)
    list(llm.stream([1] * 120, PARAMS, on_prefill=lambda *state: told.append(state)))
    assert told == [(50, 120), (100, 120), (120, 120)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(llm.stream([1] * 120, PARAMS, on_prefill=stop))
    assert not llm.engine.has_work and llm.engine.cache.num_free == llm.engine.cache.pool.num_pages


def direct(llm: Any, ids: list[int]) -> np.ndarray:
    """log_softmax of every row, computed by the plain reference in one batch without a cache."""
    from qwell.model.batch import Batch

    x = llm.backend.model.step(Batch.make([ids], logits="all")).astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def test_logprobs_of_a_text() -> None:
    llm = make_llm()
    ids = list(range(150))
    found = llm.logprobs(ids)
    expected = direct(llm, ids)
    assert found.dtype == np.float32 and np.isnan(found[0])
    assert np.allclose(found[1:], expected[np.arange(149), ids[1:]], atol=1e-4)
    assert llm.logprobs([5]).shape == (1,)
    assert np.concatenate(list(llm.logits(ids))).shape == (150, 280)
    assert llm.engine.cache.num_free == llm.engine.cache.pool.num_pages
    with pytest.raises(UsageError, match="empty"):
        llm.logprobs([])
    with pytest.raises(ContextLengthError):
        llm.logprobs([1] * 513)
    for bad in ([1.5, 2.0], "abc"):
        with pytest.raises(UsageError, match="token ids"):
            llm.logprobs(bad)
        with pytest.raises(UsageError, match="token ids"):
            llm.logits(bad)


def test_logprobs_of_a_reply_are_of_the_raw_distribution() -> None:
    """Whatever bias, penalty or temperature chose the token."""
    llm = make_llm()
    done = llm.generate(
        [1, 2, 3],
        PARAMS,
        logprobs=4,
        temperature=2.0,
        repetition_penalty=1.3,
        logit_bias={7: 5.0},
    )
    assert done.logprobs is not None and len(done.logprobs) == 12
    rows = direct(llm, [1, 2, 3, *done.token_ids])[2:-1]
    for row, token, entry in zip(rows, done.token_ids, done.logprobs, strict=True):
        assert entry.token_id == token
        assert entry.logprob == pytest.approx(row[token], abs=1e-4)
        assert entry.bytes == llm.tokenizer.token_bytes(token)
        assert entry.token == entry.bytes.decode("utf-8", "replace")
        best = np.sort(row[: llm.engine.vocab_size])[::-1][:4]  # padding is no token
        assert [top.logprob for top in entry.top] == pytest.approx(best.tolist(), abs=1e-4)
        assert all(top.top == () for top in entry.top)


def test_no_logprobs_unless_asked_and_none_of_others_if_zero() -> None:
    llm = make_llm()
    assert llm.generate([1], PARAMS).logprobs is None
    entries = llm.generate([1], PARAMS, logprobs=0).logprobs
    assert entries is not None and all(entry.top == () for entry in entries)


def test_timings() -> None:
    llm = make_llm(Rowwise(), load_ms=12.5)
    times = llm.generate([1] * 80, PARAMS).timings
    assert times.load_ms == 12.5
    assert times.ttft_ms is not None and times.ttft_ms > 0
    assert times.prefill_tok_per_s is not None and times.decode_tok_per_s is not None
    assert 80 / times.prefill_tok_per_s <= times.ttft_ms / 1000
    assert llm.generate([1], PARAMS, max_tokens=1).timings.decode_tok_per_s is None
