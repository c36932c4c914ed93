"""Records of plain text -> documents of pre-training: every token is learnt, and the end token.

Control tokens are never read out of the text: a page that explains `<|im_start|>` teaches the
spelling, not the token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qwell.data.draw import uniform
from qwell.data.example import Example, example
from qwell.data.fim import check_fim, fim_ids
from qwell.data.records import Record, Records
from qwell.errors import DataError, TextError, UsageError
from qwell.text.tokenizer import Tokenizer

FIELDS = ("text", "content", "code", "raw_content", "body")
"""Where the text of an object stands, by the first of these it has."""
END = "<|endoftext|>"


class TextExamples:
    """Documents as ids. `fim_rate` of them, drawn anew each epoch, are fill-in-the-middle; of these
    `spm_rate` in the order suffix, prefix, middle."""

    def __init__(
        self,
        records: Records,
        tokenizer: Tokenizer,
        *,
        field: str | None = None,
        seed: int = 0,
        fim_rate: float = 0.0,
        spm_rate: float = 0.5,
    ) -> None:
        for name, rate in (("fim_rate", fim_rate), ("spm_rate", spm_rate)):
            if not 0 <= rate <= 1:
                raise UsageError(f"{name} is {rate}: give a share from 0 to 1")
        if fim_rate:
            check_fim(tokenizer)
        if END not in tokenizer.special_tokens:
            raise UsageError(f"this tokenizer has no {END}, the end of a document")
        self._records, self._tokenizer, self._field = records, tokenizer, field
        self._seed, self._fim_rate, self._spm_rate = seed, fim_rate, spm_rate
        self._end = tokenizer.special_tokens[END]

    @property
    def blocks(self) -> Sequence[int]:
        return self._records.blocks

    def __len__(self) -> int:
        return len(self._records)

    def encode(self, at: int, epoch: int) -> Example:
        record = self._records[at]
        text, key = text_of(record, self._field), (self._seed, "fim", at, epoch)
        try:
            if record.is_end and uniform(*key) < self._fim_rate:
                ids = fim_ids(self._tokenizer, text, self._spm_rate, *key)
            else:
                ids = self._tokenizer.encode(text)
        except TextError as error:
            raise DataError(f"{record.place}: {error}") from error
        return example(ids + [self._end] * record.is_end, None, record.place)


def text_of(record: Record, field: str | None = None) -> str:
    """The text of a record; `field` names where it stands in an object. Raises DataError."""
    value = record.value
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise DataError(f"{record.place}: is neither text nor an object: mend or remove it")
    names = (field,) if field else FIELDS
    found = next((name for name in names if name in value), None)
    if found is None:
        keys = ", ".join(map(str, value))[:200]
        raise DataError(f"{record.place}: has no {' or '.join(names)}, but {keys}: name the field")
    if not isinstance(value[found], str):
        raise DataError(f"{record.place}: its {found} is not text: mend or remove it")
    return str(value[found])
