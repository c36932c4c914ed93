"""The official vocabulary without a model: the rank file inside the PyPI package `dashscope`.

Fetched once into the user's cache, checked by hash, never installed. Turned into merges here, by
the definition of a rank and not by the code under test.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from itertools import pairwise
from pathlib import Path

SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
MEMBER = "dashscope/resources/qwen.tiktoken"

_PAIRS = ("object_ref", "box", "quad")
SPECIAL = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *(f"<|{name}_{side}|>" for name in _PAIRS for side in ("start", "end")),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
]
VISIBLE = [
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
]
ADDED = {text: 151_643 + i for i, text in enumerate([*SPECIAL, *VISIBLE])}
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def ranks() -> dict[bytes, int]:
    """Token -> rank, which is its id: 151,643 of them."""
    pairs = (line.split() for line in _rank_file().read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


@cache
def merges() -> tuple[str, ...]:
    """All 151,387 merges as "left right" in the byte alphabet of GPT-2."""
    letters = _byte_alphabet()
    lines = []
    for token, rank in ranks().items():
        if rank >= 256:
            parts = _last_two(token, rank)
            lines.append(" ".join("".join(letters[b] for b in part) for part in parts))
    return tuple(lines)


@cache
def tokens() -> tuple[str, ...]:
    """Spellings of ids 0..151,642 in the byte alphabet."""
    letters = _byte_alphabet()
    return tuple("".join(letters[b] for b in token) for token in ranks())


def _last_two(token: bytes, rank: int) -> list[bytes]:
    """The two parts that merges of a lower rank leave of a token."""
    known = ranks()
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        _, at = min((known.get(a + b, rank), i) for i, (a, b) in enumerate(pairwise(parts)))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _byte_alphabet() -> list[str]:
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(b) if b in shown else chr(next(hidden)) for b in range(256)]


def _rank_file() -> Path:
    home = Path(os.environ.get("QWELL_HOME") or Path.home() / ".cache" / "qwell")
    path = home / "test-data" / "qwen.tiktoken"
    if not (path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256):
        raw = _download()
        assert hashlib.sha256(raw).hexdigest() == SHA256, "the rank file is not the known one"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(raw)
        part.replace(path)
    return path


def _download() -> bytes:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "dashscope==2.0.2"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*pip, "--only-binary", ":all:", "--dest", folder], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(MEMBER)
