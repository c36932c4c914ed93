"""Brings a model onto the disk: tries the sources in order, under a lock, and writes the manifest.

It decides who is asked and when to give up on a source; how bytes move is download.py's and
mirror.py's, whether they are right is part.py's. A fault of the disk ends the pull, a fault of a
source only moves it to the next one: what the first has delivered is taken up by the second.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime

from qwell.errors import DownloadError, NotFoundError, QwellError, UsageError
from qwell.hub import mirror, part, place, store
from qwell.hub.catalogue import Entry, RemoteFile, data
from qwell.hub.download import Http, Reporter, is_offline
from qwell.hub.sources import Listing, hub
from qwell.hub.store import Manifest


def pull(entry: Entry, *, source: str | None = None, reporter: Reporter | None = None) -> Manifest:
    """Makes `entry` stand in the store, every byte verified, and returns its manifest.

    `source`: the sources to try, comma separated, instead of the catalogue's order. What is here
    already is hashed and kept. Raises DownloadError or NotFoundError when every source failed,
    StorageError for the disk.
    """
    reporter = reporter or Reporter()
    names = source_order(entry, source)
    if here := _verified(entry):  # before the lock: it may lie in a folder we cannot write
        return here
    if is_offline():
        raise DownloadError(
            f"{entry.name} is not on this machine and QWELL_OFFLINE or HF_HUB_OFFLINE forbids "
            f"the network: unset it and run 'qwell pull {entry.name}'"
        )
    with store.lock(entry.key, lambda: reporter.note(f"waiting for another pull of {entry.name}")):
        return _verified(entry) or _first_that_delivers(entry, names, reporter)


def source_order(entry: Entry, source: str | None = None) -> list[str]:
    """The sources that may serve `entry`, in order: `source`, else QWELL_SOURCE, else all that
    can. Raises UsageError for an unknown source or one that cannot have it."""
    known = data()["sources"]["order"]
    wish = source or os.environ.get("QWELL_SOURCE") or ""
    names = [name.strip() for name in wish.split(",") if name.strip()]
    if strange := [name for name in names if name not in known]:
        raise UsageError(f"unknown source {strange[0]!r}: choose from {', '.join(known)}")
    # An id outside the catalogue is a Hugging Face id; elsewhere it may be another one's model.
    usual = known if entry.is_official else ["huggingface"]
    able = [name for name in names or usual if name != "mirror" or entry.mirror]
    if not able:
        raise UsageError(f"the package mirror has no {entry.name}: choose another source")
    return able


def _first_that_delivers(entry: Entry, names: list[str], reporter: Reporter) -> Manifest:
    faults: list[QwellError] = []
    for name, following in zip(names, [*names[1:], None]):
        try:
            manifest = (
                _from_mirror(entry, reporter)
                if name == "mirror"
                else _from_hub(name, entry, reporter)
            )
        except (DownloadError, NotFoundError) as error:
            faults.append(type(error)(f"{name}: {error}"))
            if following:
                reporter.note(f"{name}: {error}; trying {following}")
            continue
        store.write_manifest(entry.key, manifest)
        store.remove_strange(entry.key, manifest)
        return manifest
    is_unknown = all(isinstance(fault, NotFoundError) for fault in faults)
    message = f"{entry.name} could not be fetched: {'; '.join(map(str, faults))}"
    raise NotFoundError(message) if is_unknown else DownloadError(message)


def _verified(entry: Entry) -> Manifest | None:
    """The manifest, if every file it names still has the hash it had."""
    manifest = store.read_manifest(entry.key)
    folder = store.model_dir(entry.key)
    for file in manifest.files if manifest else ():
        want = RemoteFile(path=file.path, size=file.size, sha256=file.sha256)
        if not part.verify(folder / file.path, want):
            return None
    return manifest


def _from_hub(name: str, entry: Entry, reporter: Reporter) -> Manifest:
    source = hub(name)
    with Http(source.endpoint, source.headers) as http:
        listing = source.listing(http, entry)

        def fill(file: part.PartFile, on_bytes: Callable[[int], None]) -> None:
            http.download(source.url(entry, listing.revision, file.want.path), file, on_bytes)

        return _land(entry, name, listing, fill, reporter)


def _from_mirror(entry: Entry, reporter: Reporter) -> Manifest:
    pieces = entry.mirror
    assert pieces is not None  # source_order
    listing = Listing(revision=pieces.version, files=entry.files)
    return _land(
        entry,
        "mirror",
        listing,
        lambda file, on_bytes: mirror.join(pieces, file, on_bytes),
        reporter,
    )


def _land(
    entry: Entry,
    source: str,
    listing: Listing,
    fill: Callable[[part.PartFile, Callable[[int], None]], None],
    reporter: Reporter,
) -> Manifest:
    """Lands every file of the listing, one after the other, and describes the result."""
    folder = store.model_dir(entry.key)
    here = [part.bytes_here(folder / file.path, file) for file in listing.files]
    total = sum(file.size for file in listing.files)
    place.check_space(total - sum(here))
    reporter.begin(f"{entry.name} from {source}", total, sum(here))
    stored, done = [], 0
    for file in listing.files:
        offset = done

        def into(open_part: part.PartFile, offset: int = offset) -> None:
            fill(open_part, lambda position: reporter.advance(offset + position))

        stored.append(part.land(folder / file.path, file, into))
        done += file.size
        reporter.advance(done)
    return Manifest(
        name=entry.name,
        repo=entry.repo,
        tag=entry.tag,
        source=source,
        revision=listing.revision,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        files=tuple(stored),
    )
