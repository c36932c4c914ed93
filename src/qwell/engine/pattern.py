"""Regular expressions of JSON Schema that mean the same everywhere.

A schema's pattern is written for ECMAScript, enforced by Rust's regex syntax, and its reply is
checked by Python's. Taken is what all three read alike; `\\d` and `\\w` stand for ASCII, which the
wider readings contain, so their complements are refused.
"""

from __future__ import annotations

import re

_ESCAPE = r"\\(?:[dwsSnrtf]|x[0-9a-fA-F]{2}|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|[^\w\s])"
_TOKEN = re.compile(
    rf"""(?P<escape>{_ESCAPE})
    |(?P<set>\[\^?(?:{_ESCAPE}|[^\\\[\]])+\])
    |(?P<repeat>(?:[*+?]|\{{\d+(?:,\d*)?\}})\??)
    |\(\?:|\((?!\?)|[)|^$.]
    |[^\\\[\](){{}}|*+?^$.]""",
    re.VERBOSE,
)
CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""The control characters for which JSON has no escape of one letter."""
_CONTROL_ESCAPE = re.compile(r"\\(?:x|u00)(?:[01]|7[fF])")
_SET_OPERATION = re.compile(r"&&|--|~~")


def check_pattern(pattern: str) -> str | None:
    """Why a pattern cannot be enforced, to follow "it", or None."""
    at, was_repeat = 0, False
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if not token or (was_repeat and token["repeat"]):
            return (
                f"has {pattern[at : at + 10]!r} at character {at}, which not all engines read alike"
            )
        inside = token["set"] or ""
        escapes = inside[1:2] != "^" and _CONTROL_ESCAPE.search(token[0])
        if escapes or CONTROL.search(token[0]):
            return f"has a control character at character {at}, which a reply cannot spell"
        if _SET_OPERATION.search(inside) or (inside[1:2] == "^" and re.search(r"\\[dwS]", inside)):
            return f"has the set {inside:.40} at character {at}, which not all engines read alike"
        at, was_repeat = token.end(), bool(token["repeat"])
    return None


MAX_WEIGHT = 20_000
_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d+)(?:(,)(\d*))?\}|.", re.DOTALL)


def check_weight(pattern: str) -> str | None:
    """Why a regex is too large to enforce, to follow "it", or None.

    Counted repeats are written out by the engine: `(a{1000}){1000}` is a million states, and
    nothing about its length says so. `pattern` need not be valid.
    """
    sums, atom = [0], 0
    for piece in _PIECE.finditer(pattern):
        text = piece[0]
        if text == "(":
            sums.append(0)
            atom = 0
        elif text == ")" and len(sums) > 1:
            atom = sums.pop()
            sums[-1] += atom
        elif piece[1]:
            times = int((piece[3] or piece[1])[:12])
            sums[-1] += atom * max(times - 1, 0)
            atom *= max(times, 1)
        else:
            atom = 1
            sums[-1] += 1
    if max(sums) > MAX_WEIGHT + len(pattern):
        return f"has repeats that make it {max(sums):.3g} long: keep it below {MAX_WEIGHT:,}"
    return None
