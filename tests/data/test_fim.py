"""Fill-in-the-middle: three parts, in the order that was drawn, and the text again when joined."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwell.data.fim import check_fim, fim_ids
from qwell.data.folder import open_records
from qwell.data.texts import TextExamples
from qwell.errors import UsageError
from qwell.text.tokenizer import Tokenizer
from qwell.text.vocabulary import Vocabulary
from tests.data.small import small_tokenizer, write_lines

TOKENIZER = small_tokenizer()
PREFIX, SUFFIX, MIDDLE = (
    TOKENIZER.special_tokens[f"<|fim_{part}|>"] for part in ("prefix", "suffix", "middle")
)


def parts(ids: list[int]) -> list[str]:
    """prefix, suffix and middle as they stand between the tokens."""
    assert ids[0] == PREFIX
    suffix, middle = ids.index(SUFFIX), ids.index(MIDDLE)
    spans = (ids[1:suffix], ids[suffix + 1 : middle], ids[middle + 1 :])
    return [TOKENIZER.decode(span) for span in spans]


@given(text=st.text("abc the\n<|fim_prefix|>", max_size=30), seed=st.integers(0, 20))
def test_the_parts_joined_are_the_text(text: str, seed: int) -> None:
    prefix, suffix, middle = parts(fim_ids(TOKENIZER, text, 0.0, seed))
    assert prefix + middle + suffix == text
    nothing, suffix, rest = parts(fim_ids(TOKENIZER, text, 1.0, seed))
    assert nothing == ""
    assert rest + suffix == text


def test_rates_and_draws(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": f"x = {i}\n" * 5} for i in range(400)])
    records = open_records(path).records
    examples = TextExamples(records, TOKENIZER, fim_rate=0.5, spm_rate=0.25, seed=3)
    made = [examples.encode(i, 0).input_ids.tolist() for i in range(400)]
    assert made == [examples.encode(i, 0).input_ids.tolist() for i in range(400)]
    assert made != [examples.encode(i, 1).input_ids.tolist() for i in range(400)]
    changed = [ids for ids in made if ids[0] == PREFIX]
    spm = [ids for ids in changed if ids[1] == SUFFIX]
    assert 160 < len(changed) < 240
    assert 0.15 < len(spm) / len(changed) < 0.35
    assert all(ids[-1] == TOKENIZER.special_tokens["<|endoftext|>"] for ids in made)
    assert len({parts(ids)[0] for ids in changed}) > 50, "cuts differ"


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no <\|fim_prefix\|>"):
        check_fim(Tokenizer(Vocabulary([], {"<|endoftext|>": 256}, frozenset({256}))))
    records = open_records(write_lines(tmp_path / "a.jsonl", [{"text": "a"}])).records
    with pytest.raises(UsageError, match="fim_rate is 2"):
        TextExamples(records, TOKENIZER, fim_rate=2)
