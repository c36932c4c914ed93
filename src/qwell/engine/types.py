"""What goes into the engine and what comes out: plain frozen values.

`SamplingParams` is checked when it is made, so nothing behind it checks again. Times carry their
unit in the name. This file knows no model and no scheduling; read `engine.py` next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwell.config import GenerationConfig, ModelConfig
from qwell.engine.grammar_spec import GrammarSpec
from qwell.errors import UsageError
from qwell.model.batch import Batch

F32 = NDArray[np.float32]


class Backend(Protocol):
    """What computes a step: `ReferenceModel` or `NativeModel`."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def max_rows(self) -> int:
        """Most rows of one step."""

    @property
    def num_threads(self) -> int:
        """Threads of a step; the sampler takes as many."""

    @property
    def kv_dtype(self) -> str:
        """Of keys and values: 'float32', 'bf16' or 'int8'."""

    @property
    def roles_differ(self) -> bool:
        """Whether prompt rows are computed by another formula than reply rows: if so, a page of
        one role never serves as one of the other."""

    @property
    def read_bytes(self) -> int | None:
        """Weights that a step with logits reads; None where nobody counts them."""

    def new_kv(self, num_pages: int) -> Any:
        """Keys and values of so many pages, for `Batch.kv`."""

    def step(self, batch: Batch) -> F32:
        """Appends the batch's rows to batch.kv; gives logits [R, vocab_size] of its output rows."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when the reply ends. Raises UsageError for an impossible value.

    The order is that of Hugging Face: logit_bias, repetition, frequency and presence penalties,
    min_tokens, temperature, top_k, top_p, min_p. Every tie goes to the lowest token id.
    """

    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens that holds this share of the probability."""
    top_k: int = 0
    """Keep this many most likely tokens; 0 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this likely relative to the most likely one."""
    repetition_penalty: float = 1.0
    """Logits of tokens seen in prompt or reply: divided by it if positive, else multiplied."""
    presence_penalty: float = 0.0
    """Taken once from the logit of every token of the reply so far."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit as often as the reply has it."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id -> number added to its logit."""
    seed: int | None = None
    """None draws one; the completion tells which."""
    max_tokens: int | None = None
    """None: until the model stops or the context is full."""
    min_tokens: int = 0
    """No stop id is chosen and no stop string looked for in this many first tokens."""
    stop: tuple[str, ...] = ()
    """The reply ends before the first of these."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end the reply, beside those of the model."""
    ignore_eos: bool = False
    """Go on after the model's own end ids."""
    logprobs: int | None = None
    """None: none; n: of the chosen token and of the n most likely ones. With a grammar it takes a
    step of the model for each token, also for those that were certain."""
    prompt_logprobs: int | None = None
    """As logprobs, of the tokens of the prompt; the whole prompt is then computed anew."""
    grammar: GrammarSpec | None = None
    """What the text must fit. It then ends with 'stop' as soon as nothing may follow; only
    'length' and stop strings or ids leave it incomplete."""

    def __post_init__(self) -> None:
        # A lone string is a sequence of characters to Python, and never what was meant.
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))
        for name, low, high in _FLOATS:
            _check_float(name, getattr(self, name), low, high)
        for name, low, high in _INTS:
            _check_int(name, getattr(self, name), low, high, optional=name in _OPTIONAL)
        self._check_rest()

    def _check_rest(self) -> None:
        if 0 < self.temperature < 1e-5:
            raise UsageError(f"temperature {self.temperature} is too small; use 0 for greedy")
        if self.top_p == 0:
            raise UsageError("top_p must be above 0; use temperature 0 for greedy")
        if self.repetition_penalty < 1e-5:  # what is divided by less may come to infinity
            raise UsageError("repetition_penalty must be at least 0.00001; 1 turns it off")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise UsageError(
                f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}"
            )
        if not all(isinstance(text, str) and text for text in self.stop):
            raise UsageError("stop must be strings that are not empty")
        for token in (*self.stop_token_ids, *self.logit_bias):
            _check_int("a token id", token, 0, 2**31 - 1)
        for bias in self.logit_bias.values():
            _check_float("logit_bias", bias, -100, 100)
        if not isinstance(self.grammar, GrammarSpec | None):
            raise UsageError("grammar must be a GrammarSpec, such as GrammarSpec.json_object()")
        if self.grammar and self.ignore_eos:
            raise UsageError("ignore_eos cannot go with a grammar, which says where the reply ends")

    @classmethod
    def defaults(cls, generation: GenerationConfig, **overrides: Any) -> SamplingParams:
        """The makers' own settings (generation_config.json), then `overrides`.

        A model without do_sample is greedy. Raises UsageError for an unknown name.
        """
        values: dict[str, Any] = {
            "temperature": generation.temperature if generation.do_sample else 0.0,
            "top_p": generation.top_p,
            "top_k": generation.top_k,
            "repetition_penalty": generation.repetition_penalty,
        }
        return cls(**(values | check_names(overrides)))


def check_names(overrides: dict[str, Any]) -> dict[str, Any]:
    """Gives `overrides` back; raises UsageError if one is no field of SamplingParams."""
    known = [f.name for f in fields(SamplingParams)]
    for name in overrides:
        if name not in known:
            raise UsageError(f"unknown sampling parameter {name!r}; there are {', '.join(known)}")
    return overrides


_FLOATS = (
    ("temperature", 0, 100),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("repetition_penalty", 0, 100),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
)
_INTS = (
    ("top_k", 0, 2**31 - 1),
    ("seed", -(2**63), 2**64 - 1),
    ("max_tokens", 1, 2**31 - 1),
    ("min_tokens", 0, 2**31 - 1),
    ("logprobs", 0, 100),
    ("prompt_logprobs", 0, 100),
)
_OPTIONAL = ("seed", "max_tokens", "logprobs", "prompt_logprobs")


def _check_float(name: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}; it must be a number from {low} to {high}")


def _check_int(name: str, value: Any, low: int, high: int, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One reply asked for."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    choice: int = 0
    """Which of several replies to the same prompt and seed; a key of the random numbers."""
    key: str = ""
    """Whose request it is: only requests of one key share pages of the cache."""
    priority: int = 0
    """Higher ones enter and are read first."""


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A token and log p of it, in nats, under the model's raw distribution.

    Raw: log_softmax over all logits before any bias, penalty, mask or temperature.
    """

    token_id: int
    token: str
    """The text of its bytes; U+FFFD stands where they are no whole character."""
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    """The most likely tokens in this place, best first; their own `top` is empty."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one reply."""

    prompt_tokens: int
    completion_tokens: int
    """All chosen tokens, the one that ended the reply included."""
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were in the cache already."""


@dataclass(frozen=True, kw_only=True)
class Timings:
    """None where nothing was measured: no load in this process, no token, a single token."""

    load_ms: float | None = None
    ttft_ms: float | None = None
    """From submission to the first token."""
    prefill_tok_per_s: float | None = None
    """Computed prompt tokens over the time from the first step to the first token."""
    decode_tok_per_s: float | None = None
    """Tokens after the first over the time they took."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A whole reply."""

    text: str
    """Ends before a stop string; the text of an id that ended the reply is not in it."""
    token_ids: tuple[int, ...]
    finish_reason: str
    """'stop': an end id or a stop string; 'length': max_tokens or a full context; 'cancelled' and
    'deadline': the request was ended from outside."""
    stop_reason: str | int | None
    """The stop string or stop_token_id that ended it; None for the model's own end."""
    logprobs: tuple[TokenLogprob, ...] | None
    seed: int
    usage: Usage
    timings: Timings
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """Of every token of the prompt; None for the first, which follows nothing."""
    detected_loop: bool = False
    """The reply repeats itself at its end; see `loops.py`."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What is new in a stream. The texts of all pieces joined are the completion's text.

    token_ids are those chosen since the last piece; text that may yet belong to a stop string or
    to half a character comes later than its tokens. The last piece carries the completion.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    completion: Completion | None = None
