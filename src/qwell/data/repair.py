"""Unicode repair: text that was decoded wrongly on its way here is decoded again, by ftfy.

Only faults are mended: mojibake, lone surrogates, control characters, line ends. Quotes, ligatures
and widths stay as they were written, HTML entities too: in code they mean something.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from qwell.errors import MissingPackageError


def repaired(text: str) -> str:
    """The text without faults; the same object if there were none. Needs ftfy."""
    fixer, config = _ftfy()
    fixed: str = fixer(text, config)
    return text if fixed == text else fixed


def repaired_value(value: Any) -> Any:
    """A JSON value with every text in it repaired, keys left alone."""
    if isinstance(value, str):
        return repaired(value)
    if isinstance(value, dict):
        return {key: repaired_value(item) for key, item in value.items()}
    return [repaired_value(item) for item in value] if isinstance(value, list) else value


@cache
def _ftfy() -> tuple[Any, Any]:
    try:
        import ftfy
    except ImportError as error:
        raise MissingPackageError("repairing text", "ftfy") from error
    config = ftfy.TextFixerConfig(
        unescape_html=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        normalization=None,
        explain=False,
    )
    return ftfy.fix_text, config
