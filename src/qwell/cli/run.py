"""`qwell run MODEL PROMPT`: one answer, streamed to stdout, or as one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qwell.cli.opening import check_sampling, open_model, read_template
from qwell.cli.structure import read_structure
from qwell.cli.terminal import AnswerWriter, Progress, note
from qwell.errors import TextError, UsageError

if TYPE_CHECKING:
    from qwell.engine.types import Completion, Piece, TokenLogprob


def run(
    model: str,
    prompt: str,
    *,
    system: str | None = None,
    raw: bool = False,
    chat_template: str | None = None,
    as_json: bool = False,
    ctx: int | None = None,
    threads: int | None = None,
    int8: bool = False,
    kv_dtype: str | None = None,
    adapter: str | None = None,
    stats: bool = False,
    json_schema: str | None = None,
    json_object: bool = False,
    regex: str | None = None,
    grammar: str | None = None,
    **sampling: Any,
) -> None:
    """Prints the answer; `sampling` holds what was given of SamplingParams."""
    if raw and (system is not None or chat_template is not None):
        raise UsageError("--raw uses no template: leave out --system and --chat-template")
    if "logprobs" in sampling and not as_json:
        raise UsageError("--logprobs is part of the JSON answer: add --json")
    sampling |= read_structure(json_schema, json_object, regex, grammar)
    check_sampling(sampling)
    text = read_prompt(prompt)
    head = [] if system is None else [{"role": "system", "content": system}]
    template = None if chat_template is None else read_template(chat_template)
    llm = open_model(
        model,
        ctx=ctx,
        threads=threads,
        int8=int8,
        kv_dtype=kv_dtype,
        adapter=adapter,
        template=template,
    )
    reading = Progress("reading the prompt")
    pieces = llm.stream(
        text if raw else [*head, {"role": "user", "content": text}],
        raw=raw,
        on_prefill=reading,
        **sampling,
    )
    completion = _collect(pieces, reading, AnswerWriter() if not as_json else None)
    if as_json:
        print(json.dumps(_answer(llm.name, completion), ensure_ascii=False))
    if stats:
        note(stats_line(completion))


def read_prompt(prompt: str) -> str:
    """The argument, or stdin for `-`. Raises TextError for what is not UTF-8, UsageError for
    nothing: an empty prompt has no answer."""
    text = _stdin() if prompt == "-" else prompt
    if not text:
        raise UsageError("the prompt is empty: give a text, or - and a text on stdin")
    return text


def _stdin() -> str:
    if sys.stdin is None:
        raise UsageError("stdin is closed: give the prompt as an argument")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise TextError(
            f"stdin is not UTF-8 (byte {error.start:,}): convert it, for example with iconv"
        ) from error


def _collect(pieces: Iterator[Piece], reading: Progress, writer: AnswerWriter | None) -> Completion:
    """Writes the pieces as they come; gives the whole."""
    completion = None
    try:
        for piece in pieces:
            reading.close()
            if writer:
                writer.write(piece.text)
            completion = piece.completion or completion
    finally:
        reading.close()
        if writer:
            writer.end()
    assert completion is not None, "a stream ends with its completion"
    return completion


def stats_line(completion: Completion) -> str:
    """Counts and speeds of one answer for people; a dash where nothing was measured."""
    usage, timings = completion.usage, completion.timings
    parts = [
        f"loaded in {_seconds(timings.load_ms)}",
        f"prompt {usage.prompt_tokens:,} tokens at {_speed(timings.prefill_tok_per_s)}",
        f"first token after {_seconds(timings.ttft_ms)}",
        f"answer {usage.completion_tokens:,} tokens at {_speed(timings.decode_tok_per_s)}",
        f"ended by {completion.finish_reason}",
    ]
    return "; ".join(parts)


def _seconds(ms: float | None) -> str:
    return "-" if ms is None else f"{ms / 1e3:.2f} s"


def _speed(tok_per_s: float | None) -> str:
    return "-" if tok_per_s is None else f"{tok_per_s:,.1f} tok/s"


def _answer(model: str, completion: Completion) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "model": model,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_reason,
        "seed": completion.seed,
        "usage": asdict(completion.usage),
        "timings": asdict(completion.timings),
        "token_ids": completion.token_ids,
    }
    if completion.logprobs is not None:
        answer["logprobs"] = [_logprob(token) for token in completion.logprobs]
    return answer


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    """`bytes` as numbers: a token may be half a character."""
    return {
        "token_id": token.token_id,
        "token": token.token,
        "bytes": list(token.bytes),
        "logprob": token.logprob,
        "top": [_logprob(other) for other in token.top],
    }
