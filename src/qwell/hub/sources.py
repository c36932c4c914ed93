"""The two model hubs: which files a repository holds, and where each one lies.

A hub answers a listing (path, size, hash) pinned to one commit and serves the files. It decides
nothing: choose.py picks the files, part.py verifies the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from qwell.errors import DownloadError
from qwell.hub.catalogue import Entry, RemoteFile, data
from qwell.hub.choose import choose
from qwell.hub.download import Http
from qwell.hub.store import MANIFEST


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a model at one revision (a commit where the hub names one)."""

    revision: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A model hub. `read` turns its answer about a repository into (revision, files)."""

    name: str
    endpoint: str
    revision: str
    listing_path: str
    file_path: str
    headers: Mapping[str, str]
    read: Callable[[Any, str], tuple[str, tuple[RemoteFile, ...]]]

    def listing(self, http: Http, entry: Entry) -> Listing:
        """The files that make up `entry`. What the catalogue knows is not asked for."""
        if entry.files:
            return Listing(revision=self.revision, files=entry.files)
        path = self.listing_path.format(repo=entry.repo, revision=self.revision)
        answer = http.get_json(self.endpoint + path)
        try:
            revision, files = self.read(answer, self.revision)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DownloadError(
                f"{self.name} sent a listing of {entry.repo} that qwell cannot read ({error!r})"
            ) from error
        by_path = {file.path: file for file in files if _is_safe(file.path)}
        by_path.pop(MANIFEST, None)  # in the store that name is ours
        chosen = choose(entry.tag, by_path, entry.repo)
        return Listing(revision=revision, files=tuple(by_path[path] for path in chosen))

    def url(self, entry: Entry, revision: str, path: str) -> str:
        return self.endpoint + self.file_path.format(
            repo=entry.repo, revision=revision, path=quote(path)
        )


def hub(name: str) -> Hub:
    """`huggingface` or `modelscope`, at the address the environment names."""
    return _huggingface() if name == "huggingface" else _modelscope()


def _huggingface() -> Hub:
    from huggingface_hub import get_token

    token = get_token()
    facts = data()["sources"]["huggingface"]
    return Hub(
        name="huggingface",
        endpoint=(os.environ.get("HF_ENDPOINT") or facts["endpoint"]).rstrip("/"),
        revision=facts["revision"],
        listing_path="/api/models/{repo}/revision/{revision}?blobs=true",
        file_path="/{repo}/resolve/{revision}/{path}",
        headers={"authorization": f"Bearer {token}"} if token else {},
        read=_read_huggingface,
    )


def _modelscope() -> Hub:
    facts = data()["sources"]["modelscope"]
    endpoint = os.environ.get("QWELL_MODELSCOPE_ENDPOINT") or facts["endpoint"]
    return Hub(
        name="modelscope",
        endpoint=endpoint.rstrip("/"),
        revision=facts["revision"],
        listing_path="/api/v1/models/{repo}/repo/files?Revision={revision}&Recursive=true",
        file_path="/models/{repo}/resolve/{revision}/{path}",
        headers={},
        read=_read_modelscope,
    )


def _read_huggingface(answer: Any, revision: str) -> tuple[str, tuple[RemoteFile, ...]]:
    def one(sibling: Mapping[str, Any]) -> RemoteFile:
        lfs = sibling.get("lfs") or {}
        return RemoteFile(
            path=sibling["rfilename"],
            size=int(lfs.get("size") or sibling["size"]),
            sha256=lfs.get("sha256"),
            git_sha1=sibling.get("blobId"),
        )

    return str(answer.get("sha") or revision), tuple(map(one, answer["siblings"]))


def _read_modelscope(answer: Any, revision: str) -> tuple[str, tuple[RemoteFile, ...]]:
    def one(file: Mapping[str, Any]) -> RemoteFile:
        return RemoteFile(
            path=file["Path"], size=int(file["Size"]), sha256=file.get("Sha256") or None
        )

    files = [file for file in answer["Data"]["Files"] if file.get("Type") != "tree"]
    return revision, tuple(map(one, files))


def _is_safe(path: str) -> bool:
    """A plain relative path: a listing must not lead out of the model's folder."""
    parts = PurePosixPath(path).parts
    plain = path.isprintable() and not any(char in path for char in '\\:"<>|?*')
    return plain and bool(parts) and parts[0] != "/" and ".." not in parts
