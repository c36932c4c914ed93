"""The files of the web page, read once: what is not among them is not served, whatever its path."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from starlette.responses import Response

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing from elsewhere, nothing inline; and no script of the page can make HTML of a text."""
_KINDS = {  # the system's own table may say otherwise, and a browser runs no module of another type
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
}


def page_files() -> dict[str, Response]:
    """Path -> response, for every file of a known kind in `page`; `/` is its index.html."""
    found = dict(_walk(files("qwell.server") / "page", "/"))
    found["/"] = found["/index.html"]
    return found


def _walk(folder: Traversable, path: str) -> list[tuple[str, Response]]:
    responses = []
    for entry in folder.iterdir():
        if entry.is_dir():
            responses += _walk(entry, f"{path}{entry.name}/")
        elif kind := _KINDS.get(PurePosixPath(entry.name).suffix):
            responses.append((path + entry.name, _response(entry, kind)))
    return responses


def _response(entry: Traversable, kind: str) -> Response:
    headers = {"content-security-policy": CSP, "cache-control": "no-cache"}
    return Response(entry.read_bytes(), headers=headers, media_type=kind)
