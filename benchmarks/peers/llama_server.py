"""llama.cpp's own HTTP server, built from the sources that travel in llama-cpp-python's sdist.

The same version and flags as the environment `llama`; without its web page. Built once, in minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

from environments import RECIPES
from peer import PeerError

_OFF = ("LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES")
_OFF += ("LLAMA_BUILD_APP", "LLAMA_OPENSSL", "BUILD_SHARED_LIBS")


def server_of(root: Path) -> str:
    """The path of llama-server under `root`, built if need be. Raises PeerError."""
    folder = root / "llama-server"
    binary = folder / "build" / "bin" / "llama-server"
    if binary.exists():
        return str(binary)
    log = root / "logs" / "llama-server-build.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"building {binary}, once; this takes minutes", file=sys.stderr)
    recipe = RECIPES["llama"]
    with log.open("w") as out:
        _run([*_PIP, "-d", str(folder), *recipe.packages], out, log)
        source = _unpacked(folder)
        configure = ["cmake", "-S", str(source), "-B", str(folder / "build"), "-G", "Ninja"]
        configure += ["-DCMAKE_BUILD_TYPE=Release", *recipe.env["CMAKE_ARGS"].split()]
        _run([*configure, *(f"-D{name}=OFF" for name in _OFF)], out, log, recipe.env)
        _run(["cmake", "--build", str(folder / "build"), "-t", "llama-server"], out, log)
    return str(binary)


_PIP = (sys.executable, "-m", "pip", "download", "--no-deps")


def _unpacked(folder: Path) -> Path:
    [archive] = folder.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"


def _run(command: list[str], out: object, log: Path, env: dict[str, str] | None = None) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # our cmake and ninja
    given = os.environ | {"PATH": path} | (env or {})
    if subprocess.run(command, stdout=out, stderr=out, env=given, check=False).returncode:  # type: ignore[arg-type]
        raise PeerError(f"llama-server could not be built: see {log}")
