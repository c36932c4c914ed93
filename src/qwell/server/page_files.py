"""The files of the web page, read once: what is not among them is not served, whatever its path."""

from __future__ import annotations

import mimetypes
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.responses import Response

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_files() -> dict[str, Response]:
    """Path -> response, for every file in the folder `page`; `/` is its index.html."""
    found = dict(_walk(files("qwell.server") / "page", "/"))
    found["/"] = found["/index.html"]
    return found


def _walk(folder: Traversable, path: str) -> list[tuple[str, Response]]:
    responses = []
    for entry in folder.iterdir():
        if entry.is_dir():
            responses += _walk(entry, f"{path}{entry.name}/")
        else:
            responses.append((path + entry.name, _response(entry)))
    return responses


def _response(entry: Traversable) -> Response:
    kind = mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
    headers = {"content-security-policy": CSP, "cache-control": "no-cache"}
    return Response(entry.read_bytes(), headers=headers, media_type=kind)
