"""Documents that say the same: exactly, or nearly by MinHash.

Near duplicates share at least `threshold` of their shingles, five words each (Broder 1997). The
signature of a document is the least value of each of 120 hash functions over its shingles; two
documents meet in a band of six equal values with probability J**6, in one of twenty bands with
1 - (1 - J**6)**20: 99.8 % at J = 0.8. Who meets is compared exactly, so nothing is dropped by
chance; what is missed is missed by that probability.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from qwell.data.draw import bits

THRESHOLD = 0.8
WORDS = 5
BANDS, ROWS = 20, 6

U64 = NDArray[np.uint64]

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese and Japanese, which put no space between words: each character is one."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_PLACES = np.array([bits("shingle", i) | 1 for i in range(WORDS)], np.uint64)
_FACTORS = np.array([bits("minhash", i) | 1 for i in range(BANDS * ROWS)], np.uint64)
_CHUNK = 4096


@dataclass(frozen=True)
class Duplicate:
    """Document `at` repeats the earlier, kept document `first`."""

    at: int
    first: int
    similarity: float


def exact_duplicates(texts: Sequence[str]) -> Iterator[Duplicate]:
    """Texts equal to an earlier one but for white space at the ends. 16 bytes are held of each."""
    first: dict[bytes, int] = {}
    for at, text in enumerate(texts):
        digest = blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if first.setdefault(digest, at) != at:
            yield Duplicate(at, first[digest], 1.0)


def near_duplicates(texts: Sequence[str], threshold: float = THRESHOLD) -> Iterator[Duplicate]:
    """Texts at least `threshold` similar to an earlier one that is not itself a duplicate. Needs
    any text again by its number; about 2 KB are held of each that is kept."""
    meetings: list[dict[int, list[int]]] = [{} for _ in range(BANDS)]
    for at, text in enumerate(texts):
        mine = shingles(text)
        keys = _bands(signature(mine))
        found = _most_similar(mine, _candidates(meetings, keys), texts)
        if found and found[1] >= threshold:
            yield Duplicate(at, *found)
            continue
        for band, key in zip(meetings, keys):
            band.setdefault(key, []).append(at)


def shares_found(texts: Sequence[str], others: Iterable[str]) -> list[float]:
    """Of each text, the share of its shingles that stand anywhere in `others`: a text may be
    pieced together out of many, and near none of them."""
    mine = [shingles(text) for text in texts]
    every = np.unique(np.concatenate(mine)) if mine else np.empty(0, np.uint64)
    is_found = np.zeros(len(every), bool)
    for other in others if len(every) else ():
        theirs = shingles(other)
        at = np.searchsorted(every, theirs).clip(max=len(every) - 1)
        is_found[at[every[at] == theirs]] = True
    return [float(is_found[np.searchsorted(every, some)].mean()) for some in mine]


def shingles(text: str) -> U64:
    """Hashes of every five words in a row, sorted and once each; of all words where there are
    fewer. Case and punctuation do not count, unless there is nothing else."""
    words = [zlib.crc32(word.encode("utf-8", "replace")) for word in _WORD.findall(text.lower())]
    if not words:
        words = [zlib.crc32(text.strip().encode("utf-8", "replace"))]
    codes = np.array(words, np.uint64)
    width = min(WORDS, len(codes))
    windows = np.lib.stride_tricks.sliding_window_view(codes, width)
    return np.unique(_mixed(windows @ _PLACES[:width]))


def signature(mine: U64) -> U64:
    """[BANDS * ROWS]: the least of each hash function over the shingles."""
    least = np.full(BANDS * ROWS, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(mine), _CHUNK):
        hashed = _mixed(mine[None, start : start + _CHUNK] * _FACTORS[:, None])
        np.minimum(least, hashed.min(axis=1), out=least)
    return least


def similarity(a: U64, b: U64) -> float:
    """Share of the shingles of either that both have (Jaccard)."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


def _bands(mine: U64) -> list[int]:
    """One number for the values of each band."""
    digests = (blake2b(band.tobytes(), digest_size=8) for band in mine.reshape(BANDS, ROWS))
    return [int.from_bytes(digest.digest(), "little") for digest in digests]


def _candidates(meetings: list[dict[int, list[int]]], keys: list[int]) -> list[int]:
    return sorted({at for band, key in zip(meetings, keys) for at in band.get(key, ())})


def _most_similar(
    mine: U64, candidates: list[int], texts: Sequence[str]
) -> tuple[int, float] | None:
    """The candidate most like it, the earliest of equals."""
    scored = [(similarity(mine, shingles(texts[at])), -at) for at in candidates]
    best = max(scored, default=None)
    return (-best[1], best[0]) if best else None


def _mixed(x: U64) -> U64:
    """splitmix64's finaliser, see draw.py."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
