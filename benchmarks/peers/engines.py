"""Who takes part: qwell, the peers asked for, and the Q4_0 twins.

Says for each what its environment, its form of the model and its command are; starts it when told.
Knows nothing of measuring.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from environments import python_of
from models import Models
from peer import Peer, PeerError

from qwell import _core

HERE = Path(__file__).parent
PEERS = ("llama", "openvino", "transformers")
OURS, TWIN = "qwell", "qwell Q4_0"


@dataclass(frozen=True)
class Engine:
    name: str
    against: str
    """The engine of ours it is compared with; its own name if it is ours."""
    start: Callable[[], Peer]
    """Makes what is missing and loads. Raises PeerError."""


@dataclass(frozen=True)
class Starter:
    """What the engines of one run have in common."""

    model: str
    models: Models
    root: Path
    threads: int
    limit: str | None
    """An instruction set qwell and llama.cpp are held to."""

    @property
    def llama(self) -> str:
        return f"llama-{self.limit}" if self.limit else "llama"

    def python(self, environment: str) -> str:
        return python_of(environment, self.root)

    def ours(self, name: str, model: str) -> Peer:
        isa = self.limit
        if isa == "avx512" and "avx512bf16" in _core.isa_available():
            isa = "avx512bf16"  # llama.cpp is built with it too
        env = {"QWELL_FORCE_ISA": isa} if isa else {}
        return self._launch(name, sys.executable, "ours.py", model, env)

    def llama_cpp(self, name: str, *, q4_0: bool) -> Peer:
        python = self.python(self.llama)
        path = self.models.q4_0(python) if q4_0 else self.models.gguf()
        return self._launch(name, python, "llama_peer.py", path)

    def openvino(self, name: str) -> Peer:
        python = self.python("openvino")
        return self._launch(name, python, "openvino_peer.py", self.models.openvino(python))

    def transformers(self, name: str) -> Peer:
        python = self.python("transformers")
        return self._launch(name, python, "transformers_peer.py", self.models.bf16())

    def _launch(
        self, name: str, python: str, script: str, path: str, env: dict[str, str] | None = None
    ) -> Peer:
        log = self.root / "logs" / f"{name.replace(' ', '-')}.log"
        return Peer(name, [python, str(HERE / script), path, str(self.threads)], log, env)


def engines(starter: Starter, peers: Sequence[str], *, twin: bool) -> list[Engine]:
    """Ours first, then the peers in the order asked for, then the twins."""
    s = starter
    known = {
        "llama": ("llama.cpp", lambda name: s.llama_cpp(name, q4_0=False)),
        "openvino": ("OpenVINO GenAI", s.openvino),
        "transformers": ("transformers", s.transformers),
    }
    found = [_engine(OURS, OURS, lambda name: s.ours(name, s.model))]
    found += [_engine(known[peer][0], OURS, known[peer][1]) for peer in peers]
    if twin:
        found.append(
            _engine(TWIN, TWIN, lambda name: s.ours(name, s.models.q4_0(s.python(s.llama))))
        )
        found.append(_engine("llama.cpp Q4_0", TWIN, lambda name: s.llama_cpp(name, q4_0=True)))
    return found


def _engine(name: str, against: str, start: Callable[[str], Peer]) -> Engine:
    return Engine(name, against, lambda: start(name))


def start_all(
    wanted: Sequence[Engine], fail: Callable[[str, PeerError], None]
) -> list[tuple[Peer, str]]:
    """The engines that can be had, each with the name of ours it is compared with; `fail` hears
    of the others."""
    peers: list[tuple[Peer, str]] = []
    for engine in wanted:
        try:
            peers.append((engine.start(), engine.against))
        except PeerError as error:
            fail(engine.name, error)
    return peers
