"""Grammars at work: which tokens may come next, and which must. The one file that knows llguidance.

A `GrammarCompiler` belongs to a model; its `compile` gives each reply a `Grammar` of its own. What
may take long to compile is first compiled by a process of its own under limits on time and memory,
for a compiler thread that has run away cannot be stopped.
"""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from threading import Lock
from time import thread_time
from typing import TYPE_CHECKING

import numpy as np

from qwell.engine.grammar_spec import GrammarSpec
from qwell.engine.sampler import Mask
from qwell.errors import QwellError, UsageError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    from qwell.text.tokenizer import Tokenizer

_SECONDS, _WALL_SECONDS, _BYTES = 1, 20, 2**31
"""What a heavy grammar may take to compile: CPU time, which a busy machine does not change; time on
the clock, in case; memory."""
_REPLY_SECONDS, _TOKEN_SECONDS = 1.0, 0.01
"""CPU time a grammar may take in a reply, and more for each of its tokens."""
_CACHED = 32
_MISFIT = "doesn't satisfy"
"""In the message for a token that may not come, which would be our fault."""
_HEAVY = ('"pattern', '"format"', '"multipleOf"')
_BAD_REGEX = re.compile(r'invalid regex (".*") \(in regex\).*^error: ([^\n]*)', re.DOTALL | re.M)
_WHITE_SPACE = r"[ \t\r\n]{1,40}"
"""Between the parts of JSON: room to indent, an end to what small models else write for ever."""
_PROBE = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({_SECONDS}, {_SECONDS}))
resource.setrlimit(resource.RLIMIT_AS, ({_BYTES}, {_BYTES}))
from llguidance import LLMatcher, LLTokenizer
matcher = LLMatcher(LLTokenizer("byte"), sys.stdin.buffer.read().decode(), log_level=0)
matcher.compute_bitmask()
"""


class Grammar:
    """Where one reply stands in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher, self._left_s = matcher, _REPLY_SECONDS

    def mask(self) -> Mask:
        """int32 words over the ids: bit t % 32 of word t // 32 is set if token t may come next, end
        ids included. Raises UsageError if the grammar grows too complex on the way, or too slow."""
        with self._timed():
            words = np.frombuffer(self._matcher.compute_bitmask(), np.int32)
        self._check()
        return words

    def advance(self, token: int) -> None:
        """Takes the token the reply got. Raises UsageError as `mask`, and QwellError if the token
        may not come here."""
        self._left_s += _TOKEN_SECONDS
        with self._timed():
            self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """The tokens that must come now, whatever the model thinks; often none."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        return tokens

    @property
    def is_done(self) -> bool:
        """The text is complete and nothing may follow."""
        return self._matcher.is_stopped()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Raises UsageError if the grammar takes more time than a reply has for it: the time of an
        ambiguous one grows with every token, and all replies of a step wait for it."""
        begin = thread_time()
        yield
        self._left_s -= thread_time() - begin
        if self._left_s < 0:
            raise UsageError(
                "the grammar takes too long for every token: make it less ambiguous, and "
                "left-recursive where it is right-recursive"
            )

    def _check(self) -> None:
        if not self._matcher.is_error():
            return
        reason = _reason(self._matcher.get_error())
        if _MISFIT in reason:
            raise QwellError(f"the grammar failed on the way: {reason}")
        raise UsageError(f"the grammar grew too complex on the way: {reason}; make it simpler")


class GrammarCompiler:
    """Compiles grammars for one tokenizer; threads may share it."""

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int, eos_ids: Iterable[int]) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._eos_ids = sorted(token for token in eos_ids if token < vocab_size)
        self._compiled: OrderedDict[GrammarSpec, LLMatcher] = OrderedDict()
        self._lock, self._compiling = Lock(), Lock()  # the first is never held for long

    def compile(self, spec: GrammarSpec) -> Grammar:
        """A grammar at its start. Raises UsageError for one that cannot be enforced or takes too
        long; the first call of a model takes about 0.8 s, a known spec none, not even while
        another one is being compiled."""
        found = self._known(spec)
        if found is None:
            with self._compiling:
                found = self._known(spec) or self._keep(spec, self._compile(spec))
        return found

    def is_known(self, spec: GrammarSpec) -> bool:
        """Whether it is compiled already."""
        with self._lock:
            return spec in self._compiled

    def _known(self, spec: GrammarSpec) -> Grammar | None:
        with self._lock:
            if spec not in self._compiled:
                return None
            self._compiled.move_to_end(spec)
            return Grammar(self._compiled[spec].deep_copy())

    def _keep(self, spec: GrammarSpec, matcher: LLMatcher) -> Grammar:
        with self._lock:
            self._compiled[spec] = matcher
            if len(self._compiled) > _CACHED:
                self._compiled.popitem(last=False)
            return Grammar(matcher.deep_copy())

    def _compile(self, spec: GrammarSpec) -> LLMatcher:
        from llguidance import LLMatcher

        text = self._source(spec)
        if spec.kind == "lark" or len(text) > 8192 or sum(map(text.count, _HEAVY)) > 3:
            _probe(text)
        matcher = LLMatcher(self._ll_tokenizer, text, log_level=0, limits=_limits())
        matcher.compute_bitmask()  # here a grammar without any text fails
        problems = [matcher.get_error()] if matcher.is_error() else matcher.get_grammar_warnings()
        if problems:
            name = spec.kind.replace("_", " ").replace("tools", "schema of the tools")
            raise UsageError(f"the {name} cannot be enforced: {_reason(problems[0])}")
        return matcher

    def _source(self, spec: GrammarSpec) -> str:
        from llguidance import LLMatcher

        from qwell.engine.lark import NO_ESCAPES, tools_grammar

        if spec.kind == "json_schema":
            how = {"whitespace_pattern": _WHITE_SPACE, **NO_ESCAPES}
            try:
                return LLMatcher.grammar_from_json_schema(spec.source, overrides=how)  # type: ignore[arg-type]
            except ValueError as error:
                raise UsageError(f"the schema cannot be enforced: {error}") from error
        if spec.kind == "regex":
            return LLMatcher.grammar_from_regex(spec.source)
        is_lark = spec.kind == "lark"
        special = self._tokenizer.special_tokens
        return LLMatcher.grammar_from_lark(
            spec.source if is_lark else tools_grammar(spec.source, special)
        )

    @cached_property
    def _ll_tokenizer(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        if not self._eos_ids:
            raise UsageError("the model has no end token, and a grammar needs one")
        words = _Words(self._tokenizer, self._vocab_size, self._eos_ids[0])
        return LLTokenizer(TokenizerWrapper(words), eos_token=self._eos_ids)


class _Words:
    """A tokenizer as llguidance's wrapper wants it. Every added token is special to it: text alone
    never spells one, and a grammar names it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_id: int) -> None:
        self._tokenizer, self.eos_token_id = tokenizer, eos_id
        self.tokens = [tokenizer.token_bytes(i) for i in range(vocab_size)]
        self.special_token_ids = [i for i in tokenizer.special_tokens.values() if i < vocab_size]

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode())


def _limits() -> LLParserLimits:
    """Those of llguidance, but for memory: a state takes 1 to 2 kB, and it allows 250,000."""
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


def _probe(text: str) -> None:
    """Raises UsageError if the grammar takes more than its share of time or memory."""
    import subprocess

    command = [sys.executable, "-P", "-c", _PROBE]
    try:
        subprocess.run(
            command, input=text.encode(), capture_output=True, check=True, timeout=_WALL_SECONDS
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            "the grammar takes too long to compile: make it smaller, with fewer patterns and "
            "multipleOf, above all where allOf joins them"
        ) from error


def _reason(message: str) -> str:
    """llguidance's error on one line, without its state."""
    if message.startswith("NoExtension"):
        return "no text fits it"
    if "oneOf" in message:
        return "the options of a oneOf may overlap; use anyOf"
    if regex := _BAD_REGEX.search(message):
        return f"{regex[2]} in {regex[1]}"
    message = message.partition("<state>")[0].replace("<non-verbose/>", "")
    return " ".join(message.split())[:300]
