"""Random choices that depend on their key alone: no generator, so no state to save.

A key is made of whole numbers and texts (a seed, an epoch, the number of a document). The same key
gives the same draw on every machine and with every version of NumPy.
"""

from __future__ import annotations

from hashlib import blake2b

_MASK = (1 << 64) - 1
_ROUNDS = 12  # with 6 the permutations of 7 are visibly not equally likely


def bits(*key: int | str) -> int:
    """64 random bits."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def uniform(*key: int | str) -> float:
    """A number from [0, 1)."""
    return (bits(*key) >> 11) / (1 << 53)


def below(limit: int, *key: int | str) -> int:
    """A whole number from [0, limit); the bias is under limit / 2**64."""
    return bits(*key) * limit >> 64


class Shuffle:
    """A permutation of range(size) that takes no memory: a Feistel network over the next power of
    four, walked until it lands inside (Black and Rogaway, 2002, "cycle walking")."""

    def __init__(self, size: int, *key: int | str) -> None:
        self._size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._keys = [bits(*key, i) for i in range(_ROUNDS)]

    def __len__(self) -> int:
        return self._size

    def __call__(self, at: int) -> int:
        """Where the permutation sends `at`."""
        if not 0 <= at < self._size:
            raise IndexError(at)
        at = self._round_trip(at)
        while at >= self._size:
            at = self._round_trip(at)
        return at

    def _round_trip(self, at: int) -> int:
        mask = (1 << self._half) - 1
        left, right = at >> self._half, at & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return left << self._half | right


def _mix(x: int) -> int:
    """The finaliser of splitmix64: every bit of x reaches every bit of the result."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return x ^ x >> 31
