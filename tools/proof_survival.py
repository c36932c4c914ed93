"""Kills a tiny training run at random moments and compares it with one that lived.

    python tools/proof_survival.py --kills 200

Each life of the run is a process of its own: a fork of one that has everything imported, so that a
kill (SIGKILL, which nothing can catch) costs a fraction of a second and falls anywhere: in a step,
in the midst of writing or deleting a checkpoint, while the log is trimmed. The curve of losses, the
measurements and the final weights must be those of the uninterrupted run, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.train.tiny_run import curve, prepare, pretrain_config

from qwell.train import pretrain
from qwell.train.config import PretrainConfig


def life(config: PretrainConfig, log: Path) -> int:
    """A process that runs `config`; its id."""
    child = os.fork()
    if child:
        return child
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        pretrain.main(config)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def last_words(log: Path) -> str:
    """The end of what the lives said; the file goes with its folder."""
    return "\n".join(log.read_text().splitlines()[-5:])


def whole_life(config: PretrainConfig, log: Path) -> float:
    """Runs to the end; how long it took. Raises RuntimeError if it does not end well."""
    start = time.perf_counter()
    _, status = os.waitpid(life(config, log), 0)
    if status:
        raise RuntimeError(f"a life ended with status {status}: {last_words(log)}")
    return time.perf_counter() - start


def survive(
    folder: Path, kills: int, seed: int, say: Callable[[str], None] = print, steps: int = 60
) -> dict[str, int]:
    """Kills at random moments `kills` times, over as many runs as that takes. Raises RuntimeError
    at the first difference."""
    prepare(folder)
    log, draw = folder / "lives.log", random.Random(seed)

    def config(name: str) -> PretrainConfig:
        return pretrain_config(
            folder, out=str(folder / name), steps=steps, eval_every=5, save_every=1
        )

    usual = whole_life(config("whole"), log)
    expected, weights = curve(folder / "whole"), _weights(folder / "whole")
    done = runs = in_save = in_start = 0
    while done < kills:
        run = folder / "killed"
        shutil.rmtree(run, ignore_errors=True)
        runs += 1
        lives = 0
        while True:
            child = life(config("killed"), log)
            # Short lives too, but not only: a run must get somewhere to be killed everywhere.
            time.sleep(usual * draw.random() ** 2 * 0.6)
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended and done < kills and lives < 25:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                done, lives = done + 1, lives + 1
                in_save += bool(list(run.glob("checkpoints/*.tmp")))
                in_start += not list(run.glob("checkpoints/step-*"))
                continue
            if not ended:
                _, status = os.waitpid(child, 0)
            if status:
                raise RuntimeError(f"a life ended with status {status}: {last_words(log)}")
            break
        if curve(run) != expected:
            raise RuntimeError(f"run {runs}: the curve is not that of the whole run: {run}")
        if _weights(run) != weights:
            raise RuntimeError(f"run {runs}: the weights are not those of the whole run: {run}")
        say(f"{done} kills, {runs} runs, each curve and model bit-equal to the whole run's")
    return {"kills": done, "runs": runs, "while_saving": in_save, "before_first_save": in_start}


def _weights(run: Path) -> bytes:
    return (run / "model/model.safetensors").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(survive(Path(folder), given.kills, given.seed))


if __name__ == "__main__":
    main()
