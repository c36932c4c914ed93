"""What every command understands: its arguments and options, each option written once.

A table, read by `main`; nothing but argparse is imported, for a parser of types and validators cost
a fifth of a second before every answer. An option that is not given is not passed on, so defaults
stand in one place, the signature of the command. The ranges of sampling options are those of
SamplingParams, which checks them itself.
"""

from __future__ import annotations

import argparse
import os
import re
from difflib import get_close_matches
from typing import Any, NoReturn

from qwell.errors import UsageError


class Option:
    """The arguments of one `add_argument`."""

    def __init__(self, *names: str, **how: Any) -> None:
        self.names, self.how = names, how


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError, one line, and never guesses."""

    def __init__(self, command: str, purpose: str, options: tuple[Option, ...]) -> None:
        super().__init__(
            prog=f"qwell {command}",
            description=purpose,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        self._known = [name for option in options for name in option.names if name[0] == "-"]
        for option in options:
            self.add_argument(*option.names, **option.how)

    def parse(self, argv: list[str]) -> dict[str, Any]:
        """The values given, by parameter of the command."""
        found, rest = self.parse_known_args(argv)
        if rest:
            self.error(self._strange(rest[0]))
        return vars(found)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")

    def _strange(self, word: str) -> str:
        if not word.startswith("-"):
            return f"one argument too many, {word!r}: put a text of several words in quotes"
        name = word.partition("=")[0]
        if name in self._known:
            return f"{name} stands behind --, where all is text: put options before it"
        begins = [known for known in self._known if known.startswith(name)]
        near = begins or get_close_matches(name, self._known, n=1)
        return f"there is no option {name}" + (f", did you mean {near[0]}?" if near else "")


def positive(value: str) -> int:
    """A whole number from 1."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from 1")
    return int(value)


def positives(value: str) -> tuple[int, ...]:
    """Whole numbers from 1, with commas between them."""
    return tuple(positive(part.strip()) for part in value.split(","))


def seconds(value: str) -> float:
    """A time from 0."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 86_400:
        raise argparse.ArgumentTypeError(f"{value!r} is no time from 0 to 86400 seconds")
    return number


def size(value: str) -> int:
    """Bytes: a number, maybe with MB or GB behind it."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)(MB|GB)?", value)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{value!r} is no size: write 800MB or 2.5GB")
    return int(float(found[1]) * {"GB": 1_000_000_000, "MB": 1_000_000, None: 1}[found[2]])


def port(value: str) -> int:
    """A port; 0 lets the system choose."""
    if not value.isdecimal() or int(value) > 65_535:
        raise argparse.ArgumentTypeError(f"{value!r} is no port from 0 to 65535")
    return int(value)


def text(value: str) -> str:
    """The argument read as UTF-8, whatever the locale; Python keeps stray bytes as surrogates."""
    try:
        return os.fsencode(value).decode()
    except UnicodeError as error:
        raise argparse.ArgumentTypeError("it is not UTF-8: convert it") from error


def _number(name: str, what: str) -> Option:
    return Option(name, type=positive, metavar="N", help=what)


_GRACE = "when told to end, time that running replies get (30)"
_MODEL_HELP = "alias such as qwen2.5-coder:0.5b, Hugging Face id, folder or .gguf file"
MODEL = Option("model", metavar="MODEL", help=_MODEL_HELP)
MAYBE_MODEL = Option("model", metavar="MODEL", nargs="?", help=_MODEL_HELP)
PROMPT = Option("prompt", type=text, metavar="PROMPT", help="the text; - reads it from stdin")
SYSTEM = Option("--system", type=text, metavar="TEXT", help="system message; '' for none at all")
TEMPLATE = Option("--chat-template", metavar="FILE", help="Jinja file instead of the model's own")
CTX = _number("--ctx", "tokens the context holds")
THREADS = _number("--threads", "threads; else as many as this process may use")
INT8 = Option("--int8", action="store_true", help="pack float weights to int8: half the memory")
KV_DTYPE = Option(
    "--kv-dtype", choices=("bf16", "int8"), help="of keys and values; int8 takes half the memory"
)
ADAPTER = Option("--adapter", metavar="DIR", help="run with this PEFT adapter of the model")
OUT = Option("out", metavar="OUT", help="the folder or file to write")
FORCE = Option("--force", action="store_true", help="replace what is there")
FORMAT = Option("--format", choices=("hf", "gguf"), help="a Hugging Face folder (hf) or a GGUF")
DTYPE = Option(
    "--dtype",
    choices=("bf16", "f32", "f16", "q8_0"),
    help="of the weights (bf16); f16: hf only, q8_0: gguf only",
)
STRUCTURE = (
    Option("--json-schema", type=text, metavar="FILE|JSON", help="answer with JSON that fits it"),
    Option("--json-object", action="store_true", help="answer with a JSON object"),
    Option(
        "--regex", type=text, metavar="PATTERN", help="answer with text that matches as a whole"
    ),
    Option("--grammar", metavar="FILE", help="answer with text of this Lark grammar"),
)
AS_JSON = Option(
    "--json", dest="as_json", action="store_true", help="print one JSON object and nothing else"
)

SAMPLING = (
    Option("-n", "--max-tokens", type=int, metavar="N", help="tokens of the answer at most"),
    Option("--temperature", type=float, metavar="X", help="0 takes the likeliest token each time"),
    Option("--top-p", type=float, metavar="X", help="keep the likeliest tokens up to this share"),
    Option("--top-k", type=int, metavar="N", help="keep so many likeliest tokens; 0 keeps all"),
    Option("--min-p", type=float, metavar="X", help="keep tokens so likely relative to the best"),
    Option("--repetition-penalty", type=float, metavar="X", help="above 1: fewer seen tokens"),
    Option("--presence-penalty", type=float, metavar="X", help="taken once from tokens used"),
    Option("--frequency-penalty", type=float, metavar="X", help="taken for every earlier use"),
    Option("--seed", type=int, metavar="N", help="the same seed gives the same answer"),
    Option("--stop", type=text, action="append", metavar="TEXT", help="end before it; repeatable"),
    Option("--min-tokens", type=int, metavar="N", help="do not stop before so many tokens"),
    Option("--ignore-eos", action="store_true", help="go on when the model says it is done"),
)

OPTIONS: dict[str, tuple[Option, ...]] = {
    "run": (
        MODEL,
        PROMPT,
        SYSTEM,
        Option("--raw", action="store_true", help="continue the text, without a chat template"),
        TEMPLATE,
        *STRUCTURE,
        AS_JSON,
        Option(
            "--logprobs",
            type=int,
            metavar="N",
            help="with --json: log probabilities of the answer and of N other tokens in each place",
        ),
        CTX,
        THREADS,
        INT8,
        KV_DTYPE,
        ADAPTER,
        Option("--stats", action="store_true", help="counts and speed, to stderr"),
        *SAMPLING,
    ),
    "chat": (MAYBE_MODEL, SYSTEM, TEMPLATE, CTX, THREADS, INT8, KV_DTYPE, ADAPTER, *SAMPLING),
    "serve": (
        MODEL,
        Option("--host", metavar="ADDRESS", help="address to listen on (127.0.0.1)"),
        Option("--port", type=port, metavar="N", help="port to listen on (8000)"),
        Option("--api-key-file", metavar="FILE", help="one key a line; see qwell key"),
        CTX,
        Option(
            "--kv-budget",
            type=size,
            metavar="SIZE",
            help="memory for keys and values, taken at the start "
            "(up to a quarter of what is free, as it is used)",
        ),
        KV_DTYPE,
        ADAPTER,
        INT8,
        THREADS,
        TEMPLATE,
        _number("--max-queue", "requests that may wait (256)"),
        _number("--max-queue-tokens", "prompt tokens that may wait (262144)"),
        Option("--max-wait", type=seconds, metavar="S", help="refuse what would wait longer (60)"),
        _number("--max-seqs", "requests that run at a time (64)"),
        Option("--cors-origin", action="append", metavar="URL", help="web page that may call"),
        Option(
            "--allow-host", action="append", metavar="NAME", help="name this server is known by"
        ),
        Option("--strict", action="store_true", help="refuse fields nobody knows"),
        Option("--log-prompts", action="store_true", help="write requests to the log"),
        Option("--grace", dest="grace_s", type=seconds, metavar="S", help=_GRACE),
    ),
    "batch": (
        Option("source", metavar="IN", help="requests, one JSON object a line"),
        Option("target", metavar="OUT", help="replies; what is there already is kept"),
        Option("--model", required=True, metavar="MODEL", help=_MODEL_HELP),
        CTX,
        THREADS,
        INT8,
        KV_DTYPE,
        ADAPTER,
        TEMPLATE,
        Option("--strict", action="store_true", help="refuse fields nobody knows"),
    ),
    "key": (Option("name", metavar="NAME", help="whose key it is"),),
    "pull": (
        MODEL,
        Option("--source", metavar="NAMES", help="only these: huggingface,modelscope,mirror"),
    ),
    "list": (Option("--json", action="store_true", help="print one JSON list"),),
    "show": (
        MODEL,
        Option("--program", action="store_true", help="list the fused phases it runs as"),
        AS_JSON,
    ),
    "rm": (MODEL, Option("-y", "--yes", action="store_true", help="do not ask")),
    "tokenize": (
        MODEL,
        Option("text", type=text, metavar="TEXT", help="the text; - reads it from stdin"),
        Option("--special", action="store_true", help="read <|im_end|> and the like as tokens"),
        Option("--ids", action="store_true", help="print the ids alone, on one line"),
        AS_JSON,
    ),
    "verify": (
        MODEL,
        _number("--windows", "stretches of text to measure on (8)"),
        _number("--window-tokens", "tokens of each (512)"),
        Option("--text", metavar="FILE", help="text to measure on"),
        THREADS,
        INT8,
        KV_DTYPE,
        ADAPTER,
        AS_JSON,
    ),
    "bench": (
        MODEL,
        _number("--prompt-tokens", "tokens of each prompt (512)"),
        _number("--gen-tokens", "tokens of each reply after its first (128)"),
        Option(
            "--batch",
            type=positives,
            metavar="N,N",
            help="requests at a time, each number a run of its own (1,4,16)",
        ),
        _number("--repeat", "runs of each; medians are shown (3)"),
        Option("--greedy", action="store_true", help="always the likeliest token"),
        Option("--kl", action="store_true", help="measure the divergence from float32 as well"),
        THREADS,
        INT8,
        KV_DTYPE,
        ADAPTER,
        AS_JSON,
    ),
    "export": (MODEL, OUT, FORMAT, DTYPE, FORCE),
    "merge": (
        MODEL,
        Option("--adapter", metavar="DIR", required=True, help="the PEFT adapter to merge"),
        OUT,
        FORMAT,
        DTYPE,
        FORCE,
    ),
    "doctor": (),
}
