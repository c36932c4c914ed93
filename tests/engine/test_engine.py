"""The engine: one request's reply never depends on the others, and its pages always come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qwell.engine.engine import Engine
from qwell.engine.reply import Reply
from qwell.engine.types import Backend, Completion, Request, SamplingParams
from qwell.errors import ContextLengthError, QwellError, UsageError
from tests.engine.tiny import EOS, VOCAB_SIZE, Rowwise, Scripted, make_tokenizer, replying
from tests.model.tiny import random_ids


def make_engine(backend: Backend | None = None, **over: Any) -> Engine:
    options: dict[str, Any] = {"eos_ids": (EOS,), "max_context": 256, **over}
    return Engine(backend or Rowwise(), make_tokenizer(), **options)


def ask(prompt: list[int], **params: Any) -> Request:
    return Request(prompt_ids=tuple(prompt), params=SamplingParams(**params))


def finish(engine: Engine, *replies: Reply) -> list[Completion]:
    for _ in range(10_000):
        if all(reply.is_finished for reply in replies):
            break
        engine.step()
        check_pages(engine)
    return [reply.result() for reply in replies]


def check_pages(engine: Engine) -> None:
    held = [page for r in engine.running if r.lease for page in r.lease.pages]
    assert len(held) == len(set(held)) == engine.cache.pool.num_pages - engine.cache.num_free
    assert all(not reply.lease for reply in engine.waiting)


def requests(count: int) -> list[Request]:
    """Sampled and greedy, short and long, with penalties and logprobs."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.9, "seed": 5},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1, "seed": 6},
        {"temperature": 1.5, "frequency_penalty": 0.5, "seed": 5, "logprobs": 2},
    ]
    config = Rowwise().config
    return [
        ask(
            random_ids(config, 1 + 37 * i % 90, seed=i),
            max_tokens=8 + 5 * i % 23,
            ignore_eos=True,
            **kinds[i % len(kinds)],
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def alone() -> list[Completion]:
    """Every request by itself, on an engine of its own."""
    return [finish(e := make_engine(), e.submit(request))[0] for request in requests(10)]


@pytest.mark.parametrize(
    ("over", "late"),
    [
        ({"max_seqs": 10}, 0),  # all at once
        ({"max_seqs": 3}, 0),  # in turns
        ({"max_seqs": 8, "max_rows": 9}, 0),  # prompts in crumbs
        ({"max_seqs": 10}, 3),  # each joins while others are under way
        ({"max_seqs": 10, "max_context": 128, "num_pages": 2}, 0),  # pages run out
    ],
)
def test_a_crowd_changes_no_token(over: dict[str, Any], late: int, alone: list[Completion]) -> None:
    engine, replies = make_engine(**over), []
    for request in requests(10):
        replies.append(engine.submit(request))
        for _ in range(late):
            engine.step()
    for found, expected in zip(finish(engine, *replies), alone, strict=True):
        assert found.token_ids == expected.token_ids
        assert found.logprobs == expected.logprobs  # bit for bit
        assert found.text == expected.text
    assert not engine.has_work
    assert engine.cache.num_free == engine.cache.pool.num_pages


def test_the_plain_reference_agrees_where_margins_are_clear(alone: list[Completion]) -> None:
    """The same crowd on NumPy's whole-batch matmuls: rounding may differ, so tokens are compared
    up to the first place where the two best logits are close."""
    model = Rowwise().model
    engine = make_engine(model, max_seqs=10)
    asked = [r for r in requests(10) if r.params.temperature == 0]
    greedy = [c for r, c in zip(requests(10), alone, strict=True) if r.params.temperature == 0]
    compared = 0
    for request, found, expected in zip(
        asked, finish(engine, *map(engine.submit, asked)), greedy, strict=True
    ):
        rows = np.concatenate(list(engine.logits([*request.prompt_ids, *expected.token_ids])))
        best = np.sort(rows[len(request.prompt_ids) - 1 : -1, : engine.vocab_size], axis=1)
        clear = best[:, -1] - best[:, -2] > 1e-3
        n = len(clear) if clear.all() else int(clear.argmin())
        assert found.token_ids[:n] == expected.token_ids[:n]
        compared += n
    assert compared > 20


def test_pages_run_out_and_the_youngest_waits() -> None:
    """Two replies need more pages than there are: both end as if alone, and one was sent back."""
    backend = Rowwise()
    engine = make_engine(backend, max_context=192, num_pages=3)
    prompts = [random_ids(backend.config, 60, seed=s) for s in (1, 2)]
    wanted = [ask(p, temperature=0, max_tokens=80, ignore_eos=True) for p in prompts]
    single = [finish(e := make_engine(max_context=192), e.submit(r))[0] for r in wanted]
    old, young = map(engine.submit, wanted)
    went_back, before = [], (0, 0)
    while engine.has_work:
        engine.step()
        check_pages(engine)
        now = (old.computed, young.computed)
        went_back += [who for who in (0, 1) if now[who] < before[who]]
        before = now
    assert went_back and set(went_back) == {1}
    assert [r.result().token_ids for r in (old, young)] == [c.token_ids for c in single]


def test_reply_rows_go_first_and_chunks_are_bounded() -> None:
    backend = Rowwise()
    engine = make_engine(backend, max_rows=32)
    first = engine.submit(ask([1, 2], temperature=0, max_tokens=6, ignore_eos=True))
    engine.step()
    second = engine.submit(ask(random_ids(backend.config, 100), temperature=0, max_tokens=1))
    finish(engine, first, second)
    shapes = [np.diff(b.row_splits).tolist() for b in backend.batches]
    assert shapes == [[2], [1, 31], [1, 31], [1, 31], [1, 7], [1]]
    # A chunk that is not the last one needs no logits.
    assert [len(b.out_rows) for b in backend.batches] == [1, 1, 1, 1, 2, 1]
    assert backend.batches[1].prompt_len.tolist() == [2, 100]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_cancel_frees_pages_at_once(steps: int) -> None:
    engine = make_engine(max_rows=20)
    kept, gone = (engine.submit(ask([1] * 30, temperature=0, max_tokens=5)) for _ in range(2))
    for _ in range(steps):
        engine.step()
    engine.cancel(gone)
    assert gone.lease is None
    check_pages(engine)
    engine.cancel(gone)  # again is nothing
    finish(engine, kept)
    assert not gone.is_finished and engine.cache.num_free == engine.cache.pool.num_pages


def test_a_fault_ends_its_own_request_alone() -> None:
    """The model computes NaN for prompts that begin with 7."""
    backend = Scripted(lambda known: -1 if known[0] == 7 and len(known) > 3 else known[0])
    engine = make_engine(backend)
    well = ask([5, 1], temperature=0, max_tokens=6)
    replies = [engine.submit(r) for r in (well, ask([7, 1], temperature=0, max_tokens=6), well)]
    for _ in range(10):
        engine.step()
    assert replies[0].result().token_ids == replies[2].result().token_ids == (5,) * 6
    with pytest.raises(QwellError, match="not finite at position 4"):
        replies[1].take()
    with pytest.raises(QwellError, match="not finite"):
        replies[1].result()
    assert engine.cache.num_free == engine.cache.pool.num_pages and not engine.has_work


@pytest.mark.parametrize("num_top", [0, 2])
def test_a_prompt_whose_logits_are_not_finite_ends_its_own_request(num_top: int) -> None:
    backend = Scripted(lambda known: -1 if known[0] == 7 and len(known) > 1 else known[0])
    engine = make_engine(backend, max_rows=16)
    well = ask([5, 1], temperature=0, max_tokens=6)
    bad = ask([7, *range(40)], temperature=0, max_tokens=6, prompt_logprobs=num_top)
    replies = [engine.submit(r) for r in (well, bad)]
    while not replies[1].is_finished:
        engine.step()
    assert replies[1].num_output == 0 and replies[1].lease is None  # with its first chunk
    with pytest.raises(QwellError, match=r"not finite at position 2.*verify"):
        replies[1].take()
    assert finish(engine, replies[0])[0].token_ids == (5,) * 6
    assert engine.cache.num_free == engine.cache.pool.num_pages and not engine.has_work


def test_a_step_that_fails_loses_no_request() -> None:
    class Failing(Rowwise):
        fails = True

        def step(self, batch: Any) -> Any:
            if self.fails and batch.past[0] == 4:
                raise KeyboardInterrupt
            return super().step(batch)

    request = ask([1, 2, 3], temperature=0, max_tokens=6, ignore_eos=True)
    backend = Failing()
    engine = make_engine(backend)
    reply = engine.submit(request)
    with pytest.raises(KeyboardInterrupt):
        finish(engine, reply)
    backend.fails = False
    other = make_engine()
    assert finish(engine, reply)[0].token_ids == finish(other, other.submit(request))[0].token_ids


def test_a_prompt_longer_than_the_context_is_refused_with_the_counts() -> None:
    engine = make_engine()
    with pytest.raises(ContextLengthError, match=r"257 tokens .* holds 256") as caught:
        engine.submit(ask([1] * 257))
    assert (caught.value.prompt_tokens, caught.value.max_context) == (257, 256)
    assert not engine.has_work and engine.cache.num_free == engine.cache.pool.num_pages


@pytest.mark.parametrize("prompt", [254, 255, 256])
def test_a_full_context_ends_with_length(prompt: int) -> None:
    engine = make_engine()
    done = finish(engine, engine.submit(ask([1] * prompt, temperature=0, ignore_eos=True)))[0]
    assert done.finish_reason == "length"
    assert done.usage.completion_tokens == 256 - prompt
    assert engine.cache.num_free == engine.cache.pool.num_pages


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "prompt is empty"),
        ([VOCAB_SIZE], {}, f"id {VOCAB_SIZE}; the model has 0 to {VOCAB_SIZE - 1}"),
        ([-1], {}, "id -1"),
        ([1], {"logit_bias": {270: 1}}, "names the id 270, but the model has ids 0 to 265"),
        ([1], {"stop_token_ids": (999,)}, "names the id 999"),
    ],
)
def test_impossible_requests(prompt: list[int], params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_engine().submit(ask(prompt, **params))


def test_too_few_pages_are_a_bug_of_the_caller() -> None:
    for over in ({"num_pages": 3}, {"max_seqs": 256}, {"max_seqs": 0}):
        with pytest.raises(ValueError, match="pages of one context"):
            make_engine(**over)


def test_logits_push_running_requests_aside_and_they_go_on() -> None:
    engine = make_engine(max_context=128, num_pages=2)
    request = ask([3, 1, 4], temperature=0, max_tokens=20, ignore_eos=True)
    reply = engine.submit(request)
    engine.step()
    engine.step()
    rows = engine.logits([1] * 128, chunk=50)
    assert next(rows).shape == (50, VOCAB_SIZE)
    with pytest.raises(QwellError, match="held by logits"):
        engine.step()
    with pytest.raises(QwellError, match="held by logits"):
        next(engine.logits([1]))
    assert [len(part) for part in rows] == [50, 28]
    other = make_engine()
    assert finish(engine, reply)[0].token_ids == finish(other, other.submit(request))[0].token_ids


def test_the_same_seed_gives_the_same_reply_and_choices_differ() -> None:
    engine = make_engine()
    base = SamplingParams(temperature=1.2, max_tokens=12, ignore_eos=True, seed=99)

    def run(**over: Any) -> tuple[int, ...]:
        options: dict[str, Any] = {"prompt_ids": (1, 2), "params": base, **over}
        return finish(engine, engine.submit(Request(**options)))[0].token_ids

    assert run() == run()
    assert run() != run(choice=1)
    unseeded = SamplingParams(temperature=1.2, max_tokens=12, ignore_eos=True)
    done = finish(engine, engine.submit(Request(prompt_ids=(1, 2), params=unseeded)))[0]
    again = SamplingParams(temperature=1.2, max_tokens=12, ignore_eos=True, seed=done.seed)
    assert run(params=again) == done.token_ids  # a drawn seed is told, so a reply can be had again


def test_end_ids() -> None:
    script = [65, 66, 10, EOS, 67, EOS]
    for params, tokens, reason in (
        ({}, 4, None),
        ({"stop_token_ids": (10,)}, 3, 10),
        ({"stop_token_ids": (10,), "min_tokens": 3}, 4, None),
        ({"ignore_eos": True, "max_tokens": 6}, 6, None),
        ({"ignore_eos": True, "stop_token_ids": (67,)}, 5, 67),
        ({"ignore_eos": True, "stop_token_ids": (EOS,)}, 4, EOS),
    ):
        engine = make_engine(replying(script, prompt=1))
        done = finish(engine, engine.submit(ask([0], temperature=0, **params)))[0]
        expected = "length" if "max_tokens" in params else "stop"
        assert (done.finish_reason, done.stop_reason) == (expected, reason)
        assert len(done.token_ids) == done.usage.completion_tokens == tokens
        assert "<|im_end|>" not in done.text  # control tokens are no text
