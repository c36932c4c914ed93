"""Every byte is paid for once."""

from __future__ import annotations

import lzma
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from qwell.text.tokenizer import Tokenizer
from qwell.train.compression import bits_per_byte, windows, xz_bits_per_byte
from qwell.train.weights import init_decoder
from tests.cli.tiny import write_tokenizer
from tests.model.tiny import make_config

TEXTS = ["def f(x):\n    return x\n" * 9, "a", "", "ü" * 30]


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8, 9, 12, 13, 40])
def test_each_token_after_the_first_is_a_target_once(length: int) -> None:
    ids = np.arange(length, dtype=np.int32)
    targets = [int(i) for rows in windows(ids, 8) for i in rows.targets]
    assert targets == list(range(1, length))
    for rows in windows(ids, 8):
        assert rows.num_tokens <= 8
        seen = rows.is_target.argmax()  # tokens before the first target
        assert rows.input_ids[0] == 0 or seen >= 6


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    write_tokenizer(tmp_path)
    return Tokenizer.from_folder(tmp_path)


def test_a_model_that_knows_nothing_pays_for_every_token_alike(tokenizer: Tokenizer) -> None:
    """With all weights zero each of 259 tokens is as likely; a byte is a token."""
    decoder = init_decoder(make_config(vocab_size=259), seed=0)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
    found = bits_per_byte(decoder, tokenizer, TEXTS, context=16)
    assert found == pytest.approx(math.log2(259), rel=1e-5)


def test_windows_agree_with_one_long_row(tokenizer: Tokenizer) -> None:
    """A window of the whole text is exact; shorter ones forget, so they are no better by much."""
    decoder = init_decoder(make_config(vocab_size=259), seed=0)
    whole = bits_per_byte(decoder, tokenizer, TEXTS[:1], context=1024)
    parts = bits_per_byte(decoder, tokenizer, TEXTS[:1], context=64)
    assert whole == pytest.approx(parts, rel=0.02)


@pytest.mark.skipif(shutil.which("xz") is None, reason="xz is not installed")
def test_xz_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        ["xz", "-9", "-c"], input="".join(TEXTS).encode(), capture_output=True, check=True
    )
    size = len("".join(TEXTS).encode())
    assert xz_bits_per_byte(TEXTS) == pytest.approx(8 * len(done.stdout) / size, abs=0.01)
    assert lzma.decompress(done.stdout).decode() == "".join(TEXTS)
