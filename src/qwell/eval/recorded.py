"""What `verify` found last of a packed model, kept beside its weights: `verify.json`.

It goes with the pack, so it never outlives the files it speaks of, and another version of qwell
does not believe it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qwell.eval.report import Report
from qwell.hub import place


def _path(folder: Path, kv_dtype: str) -> Path:
    return folder / ("verify.json" if kv_dtype == "bf16" else f"verify-kv-{kv_dtype}.json")


def record(folder: Path, report: Report, kv_dtype: str = "bf16") -> None:
    """Replaces what is kept of the pack in `folder`. Raises StorageError."""
    path = _path(folder, kv_dtype)
    about = {"qwell": version("qwell"), "date": date.today().isoformat()}
    text = json.dumps(about | report.to_dict(), indent=1)
    with place.writing(path):
        path.with_suffix(".tmp").write_text(text, encoding="utf-8")
        path.with_suffix(".tmp").replace(path)


def recorded(folder: Path, kv_dtype: str = "bf16") -> Mapping[str, Any] | None:
    """The report as `Report.to_dict` gave it, and its "date"; None if there is none of this
    version."""
    try:
        found = json.loads(_path(folder, kv_dtype).read_text(encoding="utf-8"))
        return found if found["qwell"] == version("qwell") else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
