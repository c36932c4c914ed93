"""Mixed text every machine can make: over a megabyte of code, scripts, emoji and white space."""

from __future__ import annotations

import os
import random
import unicodedata
from functools import cache
from pathlib import Path

SCRIPTS = {
    "latin": (0x41, 0x17F),
    "vietnamese": (0x1EA0, 0x1EF9),
    "greek": (0x370, 0x3FF),
    "cyrillic": (0x400, 0x4FF),
    "hebrew": (0x5D0, 0x5EA),
    "arabic": (0x621, 0x64A),
    "devanagari": (0x905, 0x94D),
    "bengali": (0x985, 0x9CD),
    "tamil": (0xB85, 0xBCD),
    "thai": (0xE01, 0xE4D),
    "tibetan": (0xF40, 0xFB9),
    "georgian": (0x10D0, 0x10F6),
    "jamo": (0x1100, 0x11F9),
    "hiragana": (0x3041, 0x3096),
    "katakana": (0x30A1, 0x30FA),
    "han": (0x4E00, 0x9FA5),
    "hangul": (0xAC00, 0xD7A3),
    "mathematical": (0x1D400, 0x1D6A3),
}
MARKS = "\u0300\u0301\u0308\u0323\u0327\u0338\u064b\u093c\u0e31\u3099\u20dd\ufe0f\u200d"
EMOJI = ["😀", "👩‍🚀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "☕️", "1️⃣", "❤️‍🔥", "🧑🏿‍🦰"]
SPACES = [
    " ",
    "  ",
    "    ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    " \n",
    "\n ",
    "\r",
    "\u00a0",
    "\u3000",
    "\u2028",
]
ODDITIES = [
    "I'll",
    "don't",
    "WE'VE",
    "'S",
    "3.14159",
    "1,000,000",
    "１２３",
    "½",
    "x²",
    "!!!",
    "--->",
    "…",
]


@cache
def mixed_text() -> str:
    """At least 1 MB of UTF-8, the same on every run of one Python."""
    text = _code(400_000) + _prose(350_000) + _every_character()
    assert len(text.encode()) >= 1_000_000
    return text


def _code(size: int) -> str:
    """Sources of the standard library, in the order of their names."""
    parts, total = [], 0
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        parts.append(path.read_text(encoding="utf-8", errors="replace"))
        total += len(parts[-1])
        if total >= size:
            break
    return "".join(parts)


def _prose(size: int) -> str:
    """Words of all scripts between all kinds of space, with marks, digits and emoji."""
    rng = random.Random(20)
    parts: list[str] = []
    total = 0
    while total < size:
        first, last = SCRIPTS[rng.choice(list(SCRIPTS))]
        word = "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 9)))
        word = "".join(c for c in word if is_old(c)) or "word"
        if rng.random() < 0.2:
            at = rng.randint(0, len(word))
            word = word[:at] + "".join(rng.choices(MARKS, k=rng.randint(1, 3))) + word[at:]
        extra = rng.choice([EMOJI, ODDITIES, ["", ",", ".", "(", '"', str(rng.randint(0, 9999))]])
        parts += [word, rng.choice(extra), rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 7])]
        total += sum(map(len, parts[-3:]))
    return "".join(parts)


def _every_character() -> str:
    characters = (chr(code) for code in range(0x110000))
    return "".join(f"a{c}b {c}{c}\n{c} " for c in characters if is_old(c))


def is_old(character: str) -> bool:
    """Whether Unicode 3.2 knew it: later versions must not change its normal form, so two
    libraries with different tables agree about it."""
    return unicodedata.ucd_3_2_0.category(character) not in ("Cn", "Cs", "Co")
