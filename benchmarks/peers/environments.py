"""Environments of peers and clients: one venv each, built from package names when first needed.

llama.cpp is compiled here, at its best for this machine or held to an older instruction set; the
two C++ flags keep GCC 12 from dropping stores that AMX's tile configuration reads. torch is
pinned; where a CPU build of it is offered, pip takes that one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from peer import PeerError

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


@dataclass(frozen=True)
class Recipe:
    module: str
    """It is built when this can be imported."""
    packages: tuple[str, ...]
    """Arguments of pip install."""
    unwanted: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)


def _llama(cmake_args: str) -> Recipe:
    # pip's cache does not see CMAKE_ARGS and would hand out a wheel built for another limit.
    source = ("--no-cache-dir", "--no-binary", "llama-cpp-python", "llama-cpp-python==0.3.36")
    flags = {"CXXFLAGS": "-fno-tree-dse -fno-dse", "CMAKE_ARGS": cmake_args}
    return Recipe("llama_cpp", source, env=flags)


_AVX2 = "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
_AVX512 = "".join(f" -DGGML_AVX512{part}=ON" for part in ("", "_VBMI", "_VNNI", "_BF16"))
_OFF = " -DGGML_AVX_VNNI=OFF -DGGML_AMX_TILE=OFF -DGGML_AMX_INT8=OFF -DGGML_AMX_BF16=OFF"

# What Qwen-Agent imports and does not name stands behind it.
_AGENT = ("qwen-agent==0.0.34", "openai==3.54.0", "numpy", "soundfile", "tqdm", "python-dateutil")

RECIPES = {
    "llama": _llama("-DGGML_NATIVE=ON"),
    "llama-avx512": _llama(_AVX2 + _AVX512 + _OFF),
    "llama-avx2": _llama(_AVX2 + _OFF),
    # optimum brings torchvision, whose usual build does not load beside a CPU torch.
    "openvino": Recipe(
        "openvino_genai, optimum.intel",
        ("openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "nncf==3.4.0", "torch==2.13.0"),
        unwanted=("torchvision",),
    ),
    "transformers": Recipe(
        "torch, transformers", ("-c", str(CONSTRAINTS), "torch", "transformers", "numpy")
    ),
    # clients whose needs would crowd ours; tests/server runs them
    "lm-eval": Recipe("lm_eval, aiohttp", ("lm_eval[api]==0.4.13",)),
    "qwen-agent": Recipe("qwen_agent.agents", _AGENT),
}


def python_of(name: str, root: Path) -> str:
    """The Python of environment `name` under `root`, built if need be.

    Raises PeerError; what pip said stands in `root`/logs/NAME-install.log."""
    recipe, folder = RECIPES[name], root / name
    python = str(folder / "bin" / "python")
    if _works(python, recipe.module):
        return python
    print(f"building {folder}, once; this takes minutes", file=sys.stderr)
    log = root / "logs" / f"{name}-install.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        for command in commands(recipe, folder):
            env = os.environ | recipe.env
            if subprocess.run(command, stdout=out, stderr=out, env=env, check=False).returncode:
                raise PeerError(f"its environment could not be built: see {log}")
    if not _works(python, recipe.module):
        raise PeerError(f"its environment was built but does not import: delete {folder}")
    return python


def commands(recipe: Recipe, folder: Path) -> list[list[str]]:
    """What builds the environment, in order."""
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    remove = [[*pip, "uninstall", "-q", "-y", *recipe.unwanted]] if recipe.unwanted else []
    return [
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "install", "-q", *recipe.packages],
        *remove,
    ]


def _works(python: str, module: str) -> bool:
    try:
        probe = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return probe.returncode == 0
