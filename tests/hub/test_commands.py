"""pull, list and rm as the user meets them: what stdout says, what stderr says, what stays."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from qwell.cli import pull as pull_module
from qwell.cli.list import list_models
from qwell.cli.pull import BarReporter, LineReporter, pull, size_text
from qwell.cli.rm import rm
from qwell.errors import DownloadError, NotFoundError, UsageError
from qwell.hub import packs, store
from qwell.hub.catalogue import lookup
from tests.hub.conftest import DATA, FILE, Hub, cut, status, tree
from tests.hub.test_resolve import hf_cache
from tests.hub.test_store import pack

MODEL = "Org/Tiny:q8_0"
Capture = pytest.CaptureFixture[str]


def test_pull_says_what_it_did(hub: Hub, capsys: Capture) -> None:
    pull(MODEL)
    out, err = capsys.readouterr()
    assert out.startswith("Org/Tiny:q8_0: 300.0 kB from huggingface, verified, in ")
    assert out.count("\n") == 1
    lines = err.splitlines()
    assert lines[0] == "Org/Tiny:q8_0 from huggingface: 300.0 kB"
    assert 1 < len(lines) <= 11 and "100 % of 300.0 kB" in lines[-1]


def test_pull_of_what_is_elsewhere(tmp_path: Path, capsys: Capture) -> None:
    snapshot = hf_cache("Org/Tiny", {FILE: DATA})
    pull(MODEL)
    assert str(snapshot / FILE) in capsys.readouterr().out
    with pytest.raises(UsageError, match="there is nothing to pull"):
        pull(str(snapshot / FILE))


def test_pull_names_an_unusual_licence(
    hub: Hub, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files["Qwen/Qwen2.5-3B-Instruct-GGUF"] = {"qwen2.5-3b-instruct-q4_k_m.gguf": b"g"}
    pull("qwen2.5:3b")
    assert "stands under the Qwen Research License" in capsys.readouterr().out


def test_lines_are_one_a_tenth_and_tell_what_was_here(capsys: Capture) -> None:
    with LineReporter() as lines:
        lines.begin("m", 1000, 250)
        for done in range(250, 1001):
            lines.advance(done)
    _, err = capsys.readouterr()
    assert err.splitlines()[0] == "m: 1.0 kB, 250 B already here"
    assert [line.split()[1] for line in err.splitlines()[1:]] == [
        str(percent) for percent in range(30, 101, 10)
    ]


def test_the_bar_shows_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    bar = pull_module.reporter()
    assert isinstance(bar, BarReporter)
    with bar:
        bar.begin("first", 10_000_000, 0)
        bar.note("first: cut [off]; trying second")
        bar.begin("second", 10_000_000, 2_000_000)
        bar.advance(5_000_000)
        bar.advance(4_000_000)
    text = screen.getvalue()
    assert "first: cut [off]; trying second" in text and "5.0/10.0 MB" in text.split("second")[-1]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (491_400_064, "491.4 MB")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


def test_list_shows_whole_and_unfinished(hub: Hub, capsys: Capture) -> None:
    list_models()
    assert "qwell pull qwen2.5-coder:0.5b" in capsys.readouterr().out
    pull(MODEL)
    hub.files["Org/Cut"] = {"cut-q4_0.gguf": DATA}
    hub.faults = [cut(1000), status(404)]
    with pytest.raises(NotFoundError):
        pull("Org/Cut:q4_0")
    pack("p", store.model_dir(lookup(MODEL).key) / FILE)
    capsys.readouterr()
    list_models()
    table = capsys.readouterr().out
    assert "Org/Tiny:q8_0" in table and "huggingface" in table
    assert "Org--Cut--q4_0" in table and "unfinished" in table and "packed weights" in table
    list_models(json=True)
    cut_one, whole = json.loads(capsys.readouterr().out)
    assert (cut_one["complete"], cut_one["disk_bytes"]) == (False, 1000)
    assert whole["complete"] and whole["name"] == "Org/Tiny:q8_0" and Path(whole["path"]).is_dir()


def test_list_as_json_of_nothing(capsys: Capture) -> None:
    list_models(json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_rm_frees_and_says_so(hub: Hub, home: Path, capsys: Capture) -> None:
    pull(MODEL)
    pack("ours", store.model_dir(lookup(MODEL).key) / FILE)
    capsys.readouterr()
    rm(MODEL, yes=True)
    assert capsys.readouterr().out.startswith("Org/Tiny:q8_0 deleted, 300.")
    assert store.models() == () and list(packs.packed_dir().iterdir()) == []


def test_rm_of_an_unfinished_pull(hub: Hub, home: Path) -> None:
    for name in (MODEL, lookup(MODEL).key):
        hub.faults = [cut(1000), status(404)]
        with pytest.raises(NotFoundError):
            pull(MODEL)
        rm(name, yes=True)
        assert not home.exists()


def test_rm_asks_first(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    pull(MODEL)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(UsageError, match="add --yes"):
        rm(MODEL)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    answers = iter(["n", "", "y"])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    for _ in range(2):
        rm(MODEL)
        assert "nothing was deleted" in capsys.readouterr().out and store.models()
    rm(MODEL)
    assert not store.models()


def test_rm_never_touches_what_is_not_its_own(tmp_path: Path, capsys: Capture) -> None:
    snapshot = hf_cache("Org/Tiny", {FILE: DATA})
    before = tree(tmp_path)
    for model in (MODEL, str(snapshot / FILE)):
        with pytest.raises(NotFoundError, match="is not qwell's to delete"):
            rm(model, yes=True)
    assert tree(tmp_path) == before
    pack("p", snapshot / FILE)
    rm(MODEL, yes=True)
    assert "its own files stay" in capsys.readouterr().out
    assert (snapshot / FILE).exists() and list(packs.packed_dir().iterdir()) == []


def test_packed_weights_alone_are_listed_and_removed(tmp_path: Path, capsys: Capture) -> None:
    def left(key: str, name: str) -> Path:
        folder = pack(key, tmp_path / "mine" / key / "model.gguf", tmp_path)
        facts = json.loads((folder / "model.json").read_text()) | {"model": name}
        (folder / "model.json").write_text(json.dumps(facts))
        return folder

    for key, name, asked in (
        ("a", "Org/Tiny:q8_0", "Org/Tiny:q8_0"),
        ("b", "Spaced out/model", "Spaced out/model"),
        ("c", "./c", str(tmp_path / "mine/c/model.gguf")),
        ("d", "./d", str(tmp_path / "mine/d")),
        ("e", "./e", "e"),
    ):
        folder = left(key, name)
        other = left("other", "another")
        list_models()
        table = capsys.readouterr().out
        assert name in table and table.count("its files are gone: rm") == 2
        list_models(json=True)
        found = json.loads(capsys.readouterr().out)
        assert [(m["name"], m["packed_only"], m["path"]) for m in found] == [
            (name, True, str(folder)),
            ("another", True, str(other)),
        ]
        rm(asked)
        assert "its files were gone" in capsys.readouterr().out
        assert not folder.exists() and other.exists()
        rm("other")
        capsys.readouterr()


def test_packed_weights_of_files_elsewhere_are_listed(tmp_path: Path, capsys: Capture) -> None:
    """They are in the total below the table, so they have a row."""
    weights = tmp_path / "mine/model.gguf"
    weights.parent.mkdir()
    weights.touch()
    folder = pack("a", weights, tmp_path)
    list_models()
    assert "its files are elsewhere" in capsys.readouterr().out
    list_models(json=True)
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["path"], found["packed_only"], found["files_gone"]) == (str(folder), True, False)


def test_a_long_name_stays_whole_in_a_pipe(tmp_path: Path, capsys: Capture) -> None:
    """grep finds it, awk reads it: a heading, then a line a model."""
    name = "Organisation/" + "long-" * 30 + "name"
    folder = pack("a", tmp_path / "mine/model.gguf", tmp_path)
    facts = json.loads((folder / "model.json").read_text()) | {"model": name}
    (folder / "model.json").write_text(json.dumps(facts))
    list_models()
    heading, line, *_ = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NAME", "SIZE", "SOURCE", "DATE"] and line.split()[0] == name


def test_rm_takes_what_an_earlier_state_left(tmp_path: Path, capsys: Capture) -> None:
    """The Hugging Face cache got another snapshot; what was packed from the one before goes too."""
    snapshot = hf_cache("Org/Tiny", {FILE: DATA})
    for key, source in (("now", snapshot / FILE), ("before", tmp_path / "gone" / FILE)):
        facts = {"source": [str(source)], "model": MODEL}
        (pack(key) / "model.json").write_text(json.dumps(facts))
    list_models()
    table = capsys.readouterr().out
    assert table.count("its files are elsewhere") == table.count("its files are gone: rm") == 1
    rm(MODEL)
    assert list(packs.packed_dir().iterdir()) == [] and (snapshot / FILE).exists()


def test_list_without_models_tells_of_packed_weights(capsys: Capture) -> None:
    (pack("p") / "model.json").write_text("{}")  # broken: nobody knows of what
    list_models()
    out = capsys.readouterr().out
    assert "no models yet" in out and "packed weights (made again when needed)" in out


def test_rm_of_the_unknown(home: Path) -> None:
    with pytest.raises(NotFoundError, match="'qwell list' shows what is"):
        rm("qwen2.5:7b", yes=True)
    with pytest.raises(NotFoundError, match="did you mean"):
        rm("qwen2.5:8b", yes=True)
    assert not home.exists()


def test_pull_offline(monkeypatch: pytest.MonkeyPatch, home: Path, capsys: Capture) -> None:
    monkeypatch.setenv("QWELL_OFFLINE", "1")
    with pytest.raises(DownloadError, match="forbids the network"):
        pull("qwen2.5-coder:0.5b")
    assert not home.exists() and capsys.readouterr() == ("", "")
