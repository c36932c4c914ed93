"""A tiny model that was run once, so that its packed form is there, and a clean environment."""

from __future__ import annotations

from pathlib import Path

import pytest

import qwell
from tests.cli.tiny import Run, in_process, write_model


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def model(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model, context 512."""
    folder = write_model(tmp_path_factory.mktemp("models") / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QWELL_HOME", str(home))
        qwell.load(str(folder))
    return folder


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QWELL_HOME in the tests' place, no network, an empty working folder; a test of the official
    model needs the user's own."""
    if request.node.get_closest_marker("weights"):
        return
    for name in ("QWELL_DEBUG", "QWELL_BACKEND", "QWELL_FORCE_ISA", "QWELL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QWELL_HOME", str(request.getfixturevalue("home")))
    monkeypatch.setenv("QWELL_OFFLINE", "1")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """qwell(*argv, stdin=b"") in this process."""
    return in_process(capsys, monkeypatch)
