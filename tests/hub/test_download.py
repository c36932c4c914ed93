"""Every fault of a network: what is left on the disk, what is said, and how it goes on."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from urllib.parse import urljoin

import pytest

from qwell.errors import DownloadError, NotFoundError
from qwell.hub import download, place, store
from qwell.hub.catalogue import Entry, lookup
from qwell.hub.download import Reporter
from qwell.hub.part import part_path
from qwell.hub.pull import pull
from tests.hub.conftest import DATA, FILE, Handler, Hub, cut, status, tree


class Listener(Reporter):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.begun: list[tuple[int, int]] = []
        self.positions: list[int] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, name: str, total_bytes: int, done_bytes: int) -> None:
        self.begun.append((total_bytes, done_bytes))

    def advance(self, done_bytes: int) -> None:
        self.positions.append(done_bytes)


def final(entry: Entry) -> Path:
    return store.model_dir(entry.key) / FILE


def part(entry: Entry) -> Path:
    return part_path(final(entry), entry.files[0])


def pull_hf(entry: Entry, reporter: Reporter | None = None) -> None:
    pull(entry, source="huggingface", reporter=reporter)


def assert_one_line(error: BaseException) -> str:
    text = str(error)
    assert text and "\n" not in text
    return text


def test_pulls_verifies_and_reports(hub: Hub, entry: Entry) -> None:
    listener = Listener()
    pull_hf(entry, listener)
    assert final(entry).read_bytes() == DATA
    manifest = store.read_manifest(entry.key)
    assert manifest and manifest.source == "huggingface" and manifest.size == len(DATA)
    assert listener.begun == [(len(DATA), 0)] and listener.positions[-1] == len(DATA)
    assert sorted(path.name for path in final(entry).parent.iterdir()) == ["manifest.json", FILE]
    assert [path.name for path in (place.home() / "models").iterdir()] == [entry.key]  # no lock


def test_a_second_pull_asks_nobody(hub: Hub, entry: Entry) -> None:
    pull_hf(entry)
    asked = len(hub.requests)
    pull_hf(entry)
    assert len(hub.requests) == asked


def test_a_cut_connection_resumes_by_range(hub: Hub, entry: Entry) -> None:
    hub.faults = [cut(100_000), cut(50_000)]
    pull_hf(entry)
    assert final(entry).read_bytes() == DATA
    assert [asked for _, asked, _ in hub.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_progress_renews_the_patience(hub: Hub, entry: Entry) -> None:
    hub.faults = [cut(20_000)] * 10
    pull_hf(entry)
    assert final(entry).read_bytes() == DATA


def test_gives_up_without_progress_and_keeps_the_part(hub: Hub, entry: Entry) -> None:
    hub.faults = [cut(1000)] + [status(503)] * 20
    with pytest.raises(DownloadError, match=r"503.*gave up after 4 tries"):
        pull_hf(entry)
    assert not final(entry).exists() and part(entry).read_bytes() == DATA[:1000]
    assert store.read_manifest(entry.key) is None
    hub.faults = []
    listener = Listener()
    pull_hf(entry, listener)
    assert hub.requests[-1][1] == "bytes=1000-" and listener.begun == [(len(DATA), 1000)]
    assert final(entry).read_bytes() == DATA and not part(entry).exists()


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again(hub: Hub, entry: Entry, code: int) -> None:
    hub.faults = [status(code, retry_after="0"), status(code)]
    pull_hf(entry)
    assert final(entry).read_bytes() == DATA


def test_a_server_that_ignores_range_starts_over(hub: Hub, entry: Entry) -> None:
    hub.faults = [cut(1000), lambda handler, body: handler.reply(body)]
    pull_hf(entry)
    assert final(entry).read_bytes() == DATA


@pytest.mark.parametrize(
    "wrong",
    [
        status(416),
        lambda handler, body: handler.reply(body[5:], 206, content_range="bytes 5-9/10"),
        lambda handler, body: handler.reply(body[1000:], 206),
    ],
    ids=["416", "wrong place", "no content-range"],
)
def test_a_range_not_honoured_starts_over(hub: Hub, entry: Entry, wrong: object) -> None:
    hub.faults = [cut(1000), wrong]  # type: ignore[list-item]
    pull_hf(entry)
    assert final(entry).read_bytes() == DATA and hub.requests[-1][1] is None


def test_a_corrupt_part_is_fetched_anew(hub: Hub, entry: Entry) -> None:
    part(entry).parent.mkdir(parents=True)
    part(entry).write_bytes(b"x" * 5000)
    pull_hf(entry)
    assert [asked for _, asked, _ in hub.requests] == ["bytes=5000-", None]
    assert final(entry).read_bytes() == DATA


def test_wrong_bytes_never_stand(hub: Hub, entry: Entry, tmp_path: Path) -> None:
    hub.files["Org/Tiny"][FILE] = DATA[:-1] + b"?"
    before = tree(tmp_path)
    with pytest.raises(DownloadError, match=r"has the hash .* instead of"):
        pull_hf(entry)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("body", [DATA[:-1], DATA + b"x", b""], ids=["short", "long", "empty"])
def test_a_wrong_length_is_refused_before_the_body(
    hub: Hub, entry: Entry, tmp_path: Path, body: bytes
) -> None:
    hub.files["Org/Tiny"][FILE] = body
    with pytest.raises(DownloadError, match=f"{len(body):,} bytes instead of 300,000"):
        pull_hf(entry)
    assert tree(tmp_path) == {} and len(hub.requests) == 1


def chunked(handler: Handler, body: bytes) -> None:
    """A body without a declared length."""
    handler.send_response(200)
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


def test_an_endless_body_is_stopped(hub: Hub, entry: Entry, tmp_path: Path) -> None:
    hub.faults = [lambda handler, body: chunked(handler, body * 3)]
    with pytest.raises(DownloadError, match="is longer than 300,000 bytes"):
        pull_hf(entry)
    assert tree(tmp_path) == {}


def test_a_body_of_undeclared_length_is_taken(hub: Hub, entry: Entry) -> None:
    hub.faults = [chunked]
    pull_hf(entry)
    assert final(entry).read_bytes() == DATA


@pytest.mark.parametrize("code", [401, 403])
def test_a_refusal_hints_at_the_token(hub: Hub, entry: Entry, tmp_path: Path, code: int) -> None:
    hub.faults = [status(code)]
    with pytest.raises(DownloadError, match=rf"HTTP {code}.*set HF_TOKEN"):
        pull_hf(entry)
    assert tree(tmp_path) == {} and len(hub.requests) == 1


def test_missing_is_not_found(hub: Hub, entry: Entry, tmp_path: Path) -> None:
    hub.files = {}
    with pytest.raises(NotFoundError, match="HTTP 404") as caught:
        pull_hf(entry)
    assert_one_line(caught.value)
    assert tree(tmp_path) == {}


def test_the_token_goes_to_its_own_host_alone(
    hub: Hub, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    hub.faults = [status(302, location="/Org/Tiny/resolve/main/" + FILE)]
    pull_hf(entry)
    assert [auth for _, _, auth in hub.requests] == ["Bearer hf_test"] * 2


def test_the_token_does_not_follow_a_redirect_elsewhere(
    hub: Hub, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(download, "_next_url", urljoin)  # a second host with https is not at hand
    elsewhere = hub.url.replace("127.0.0.1", "localhost") + "/Org/Tiny/resolve/main/" + FILE
    hub.faults = [status(302, location=elsewhere)]
    pull_hf(entry)
    assert [auth for _, _, auth in hub.requests] == ["Bearer hf_test", None]


def test_a_silent_name_server_does_not_hold_the_pull(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def hang(*_: object) -> socket.socket:
        release.wait(30)
        raise OSError("never mind")

    monkeypatch.setattr(socket, "create_connection", hang)
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.1)
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"cannot reach .* \(no answer within 0.1 s\)"):
        pull_hf(entry)
    release.set()
    assert time.monotonic() - start < 5


def test_a_redirect_elsewhere_needs_https(hub: Hub, entry: Entry, tmp_path: Path) -> None:
    elsewhere = hub.url.replace("127.0.0.1", "localhost") + "/Org/Tiny/resolve/main/" + FILE
    hub.faults = [status(302, location=elsewhere)]
    with pytest.raises(DownloadError, match=r"redirects to localhost:.* without https: refused"):
        pull_hf(entry)
    assert tree(tmp_path) == {} and len(hub.requests) == 1


@pytest.mark.parametrize("target", ["http://[bad/", "ftp://127.0.0.1/x", "file:///etc/hostname"])
def test_a_redirect_to_nonsense_is_refused(hub: Hub, entry: Entry, target: str) -> None:
    hub.faults = [status(302, location=target)]
    with pytest.raises(DownloadError, match="redirects to"):
        pull_hf(entry)


def test_a_circle_of_redirects_ends(hub: Hub, entry: Entry) -> None:
    hub.faults = [status(302, location="/Org/Tiny/resolve/main/" + FILE)] * 50
    with pytest.raises(DownloadError, match="in a circle"):
        pull_hf(entry)


def test_unreachable_is_said_once_and_fast(entry: Entry, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"huggingface: cannot reach 127.0.0.1:1") as caught:
        pull_hf(entry)
    assert time.monotonic() - start < 3
    assert_one_line(caught.value)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://host", "http://", "http://h:port"])
def test_an_impossible_endpoint_is_named(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(DownloadError, match="is not a web address"):
        pull_hf(entry)


@pytest.mark.parametrize("name", ["QWELL_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_forbids_the_network(
    hub: Hub, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(DownloadError, match="forbids the network: unset it"):
        pull_hf(entry)
    assert hub.requests == [] and tree(tmp_path) == {}


def test_offline_uses_what_is_here(hub: Hub, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    pull_hf(entry)
    monkeypatch.setenv("QWELL_OFFLINE", "1")
    pull_hf(entry)


def test_a_file_without_hash_is_refused(hub: Hub, tmp_path: Path) -> None:
    def forget(listing: dict) -> None:
        for sibling in listing["siblings"]:
            del sibling["blobId"], sibling["lfs"]

    hub.listing_change = forget
    with pytest.raises(DownloadError, match=f"no hash is known for {FILE}"):
        pull_hf(lookup("Org/Tiny:q8_0"))
    assert tree(tmp_path) == {}
