"""The same weights in every peer's own form, made once and kept.

GGUF as it is for llama.cpp; dequantised to a bf16 folder for transformers; from that OpenVINO's
int4; and a Q4_0 twin of the GGUF, the format llama.cpp is fastest with. Speeds only: an int4 of
dequantised weights is no judgement on anybody's quality.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from peer import PeerError

HERE = Path(__file__).parent


class Models:
    """The forms of one model, under root/models/NAME-SIZE/."""

    def __init__(self, name: str, source: Path, root: Path) -> None:
        self.name, self.source = name, source
        size = source.stat().st_size
        self.folder = root / "models" / f"{source.stem}-{size}"
        self.logs = root / "logs"

    def gguf(self) -> str:
        if self.source.suffix != ".gguf":
            raise PeerError("it reads GGUF files only: give a model in that form")
        return str(self.source)

    def bf16(self) -> str:
        """Hugging Face folder."""
        return self._make(
            "bf16", lambda out: self._run("export.py", sys.executable, self.name, out)
        )

    def openvino(self, python: str) -> str:
        """Folder with OpenVINO's model; `python` is that of its environment."""
        source = self.bf16()
        return self._make(
            "openvino", lambda out: self._run("openvino_convert.py", python, source, out)
        )

    def q4_0(self, python: str) -> str:
        """The twin; `python` is that of llama.cpp's environment."""
        source = self.gguf()
        return self._make("q4_0.gguf", lambda out: self._run("llama_q4_0.py", python, source, out))

    def _make(self, name: str, build: Callable[[str], None]) -> str:
        """The file or folder `name`; it is built beside its place and moved when whole."""
        done, part = self.folder / name, self.folder / f"{name}.part"
        if not done.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(part, ignore_errors=True)
            print(f"making {done}, once", file=sys.stderr)
            build(str(part))
            part.rename(done)
        return str(done)

    def _run(self, script: str, python: str, *arguments: str) -> None:
        log = self.logs / f"{Path(script).stem}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as out:
            command = [python, str(HERE / script), *arguments]
            if subprocess.run(command, stdout=out, stderr=out, check=False).returncode:
                raise PeerError(f"its form of the model could not be made: see {log}")
