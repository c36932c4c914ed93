"""The hunt for differences on a real model, for hours: `make proof-one-answer HOURS=4`.

Schedule after schedule (tests/engine/hunt.py) is played on one copy of the model and every request
of it alone on another, opened with other threads; now and then both are loaded again, and every
third schedule has neighbours that take its cores. At the first difference the seed is written to a
file, which --replay plays again, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.engine.hunt import Facts, Limits, draw_schedule, hunt, neighbours

from qwell import LLM, load
from qwell.config import REAL_VOCAB_SIZE
from qwell.native import default_threads

LIMITS = Limits(REAL_VOCAB_SIZE, stops=(" ", "e", "\n", "\ufffd"), contexts=(320, 1408))
RELOAD, MOST_ROWS = 50, 1_000_000  # schedules; rows remembered, 200 bytes each


@dataclass
class Pair:
    """The same model with one thread and with all of them."""

    name: str
    models: tuple[LLM, ...] = ()

    def load(self) -> None:
        self.models = ()  # first let the old ones go
        threads = (1, max(2, default_threads()))
        self.models = tuple(load(self.name, ctx=2048, num_threads=n) for n in threads)


def play(pair: Pair, seed: int, facts: Facts) -> None:
    """Everything about a schedule follows from its seed. Raises what `hunt` does."""
    rng = Random(seed)
    schedule = draw_schedule(rng, LIMITS)
    crowd, alone = pair.models if rng.random() < 0.5 else pair.models[::-1]
    with neighbours(2 if rng.random() < 1 / 3 else 0):
        hunt(schedule, crowd.tokenizer, crowd.backend, alone.backend, facts)


def report(folder: Path, told: dict[str, str | int]) -> None:
    """Writes what a replay needs and says how to run it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"difference-{told['seed']}.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    print(f"FOUND in schedule {told['seed']}: {told['found']}")
    print(f"again:         .venv/bin/python tools/proof_one_answer.py --replay {path}")
    print(f"the whole run: .venv/bin/python tools/proof_one_answer.py --seed {told['first']} ...")


def prove(pair: Pair, first: int, seconds: float, out: Path) -> int:
    """Plays seeds from `first` on until the time is over or something is found."""
    facts, start, said = Facts(), monotonic(), monotonic()
    for seed in range(first, 1 << 62):
        if (seed - first) % RELOAD == 0:
            pair.load()
        if len(facts.rows) > MOST_ROWS:
            facts.rows.clear()  # rows of later schedules are compared with later ones
        try:
            play(pair, seed, facts)
        except Exception as error:  # a Difference, or a fault that none of these requests deserves
            report(out, {"model": pair.name, "first": first, "seed": seed, "found": repr(error)})
            return 1
        over = monotonic() - start >= seconds
        if over or monotonic() - said > 30:
            said = monotonic()
            done = f"{said - start:7.0f} s  {seed - first + 1:,} schedules"
            print(f"{done}, {facts}, 0 differences", flush=True)
        if over:
            break
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="qwen2.5-coder:0.5b")
    parser.add_argument("--hours", type=float, default=0)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule")
    parser.add_argument("--out", type=Path, default=Path("build/one-answer"))
    parser.add_argument("--replay", type=Path, help="a file that told of a difference")
    args = parser.parse_args()
    if args.replay:
        told = json.loads(args.replay.read_text(encoding="utf-8"))
        return prove(Pair(told["model"]), told["seed"], 0, args.out)
    return prove(Pair(args.model), args.seed, args.hours * 3600 + args.minutes * 60, args.out)


if __name__ == "__main__":
    sys.exit(main())
