"""The bytes of a request body -> a JSON value, within limits that hold before anything is built.

Depth and number of values are counted on the bytes, so that a body cannot make the parser recurse
or fill memory with empty lists. What JSON leaves open is refused: a name twice in one object, NaN
and infinite numbers, lone surrogates, a byte order mark.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

from qwell.server.errors import ApiError

MAX_DEPTH = 64
MAX_VALUES = 300_000
"""Commas and brackets. A prompt of 131,072 token ids has as many commas."""

# Possessive, and an unclosed string ends with the text: one pass, whatever the body is.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(body: bytes) -> Any:
    """The value. Raises ApiError 400."""
    if not body:
        raise _bad("the body is empty: send a JSON object")
    check_shape(body)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not UTF-8 (byte {error.start:,})") from error
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_number
        )
    except (ValueError, RecursionError) as error:
        raise _bad(f"the body is not valid JSON: {error}") from error
    if _SURROGATE.search(text):
        _check_unicode(value)
    return value


def check_shape(body: bytes) -> None:
    """Raises ApiError 400 for a body that is nested too deeply or has too many values."""
    bare = _STRING.sub(b"", body)
    brackets = bare.translate(None, _NOT_BRACKETS)
    if len(brackets) + bare.count(b",") > MAX_VALUES:
        raise _bad(f"the body has more than {MAX_VALUES:,} values")
    depth = 0
    for char in brackets:
        depth += 1 if char in b"[{" else -1
        if depth > MAX_DEPTH:
            raise _bad(f"the body is nested more than {MAX_DEPTH} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, times in Counter(n for n, _ in pairs).items() if times > 1)
        raise _bad(f"the name {twice!r:.60} is twice in one object", param=twice[:60])
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _check_unicode(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _bad("the body has a lone surrogate (\\ud800 to \\udfff): no text has one") from error


def _bad(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_json")
