"""qwell and its peers on the same weights and the same work, taking turns in one run.

    python benchmarks/peers/compare.py MODEL [--peers llama,openvino,transformers] [--rounds 5]

Each engine stays loaded in a process of its own, finds its best settings among those worth trying,
then takes its turn in every round. A peer that cannot be had or fails is reported in one line and
the rest goes on. The last line is one JSON object. Builds what it needs in build/peers (QWELL_PEERS
names another folder).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contest import contest
from engines import OURS, PEERS, Starter, engines, start_all
from models import Models
from peer import PeerError, Work
from plot import plot_race
from report import as_json, table

from qwell.errors import QwellError
from qwell.hub.resolve import resolve

IDS = 150_000
"""Random ids are below this: ordinary tokens of every Qwen2.5."""


def main() -> None:
    args = parse(sys.argv[1:])
    failed: dict[str, str] = {}

    def fail(name: str, error: PeerError) -> None:
        if name == OURS:
            raise SystemExit(f"compare: {error}")
        failed[name] = str(error)
        print(f"{name} is left out: {error}", file=sys.stderr)

    peers = start_all(engines(starter(args), args.peers, twin=args.twin), fail)
    works = []
    try:
        for work in works_of(args):
            here = [(peer, ours) for peer, ours in peers if peer.name not in failed]
            entries = contest(here, work, args.rounds, first_only=args.no_tune, fail=fail)
            print(table(work, entries), end="\n\n", flush=True)
            works.append(as_json(work, entries))
    finally:
        for peer, _ in peers:
            peer.close()
    facts = {name: getattr(args, name) for name in ("model", "threads", "limit", "rounds")}
    print(json.dumps(facts | {"works": works, "failed": failed}), flush=True)
    if args.plot:
        plot_race(args.plot, works, f"{args.model}, {args.threads} threads")
    if args.require_decode and lowest_decode_ratio(works) < args.require_decode:
        raise SystemExit(1)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--peers", type=names, help=f"of {', '.join(PEERS)}; default all")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--batch", type=counts, default=[1, 16], help="default 1,16")
    parser.add_argument("--prompt-tokens", type=count, help="default 512, 128 when batched")
    parser.add_argument("--gen-tokens", type=count, default=64)
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--twin", action="store_true", help="add llama.cpp and qwell on Q4_0")
    parser.add_argument("--limit", choices=("avx512", "avx2"), help="hold both to this")
    parser.add_argument("--no-tune", action="store_true", help="every peer's first setting")
    parser.add_argument("--plot", type=Path, help="draw the result into this PNG")
    parser.add_argument("--require-decode", type=float, help="end with 1 below this ratio")
    args = parser.parse_args(argv)
    if args.limit and args.peers not in (None, ["llama"]):
        parser.error("--limit compares with llama alone: the others cannot be rebuilt for it")
    if args.plot and not args.plot.parent.is_dir():
        parser.error(f"--plot: there is no folder {args.plot.parent}")
    args.peers = args.peers or (["llama"] if args.limit else list(PEERS))
    return args


def names(text: str) -> list[str]:
    found = text.split(",")
    for name in found:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PEERS)}")
    return found


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def counts(text: str) -> list[int]:
    return [count(part) for part in text.split(",")]


def starter(args: argparse.Namespace) -> Starter:
    """Finds the model's files, fetching them if need be."""
    build = Path(__file__).parents[2] / "build" / "peers"
    root = Path(os.environ.get("QWELL_PEERS") or build).absolute()
    try:
        source = resolve(args.model).paths[0]
    except QwellError as error:
        raise SystemExit(f"compare: {error}") from error
    models = Models(args.model, source, root)
    return Starter(args.model, models, root, args.threads, args.limit)


def works_of(args: argparse.Namespace) -> list[Work]:
    return [
        make_work(batch, args.prompt_tokens or (512 if batch == 1 else 128), args.gen_tokens)
        for batch in args.batch
    ]


def make_work(batch: int, prompt_tokens: int, gen_tokens: int) -> Work:
    """Seeded random ids: the same for every engine, and no two prompts share a beginning."""
    draw = random.Random(0)
    prompts = (tuple(draw.randrange(IDS) for _ in range(prompt_tokens)) for _ in range(batch))
    return Work(tuple(prompts), gen_tokens)


def lowest_decode_ratio(works: Sequence[dict[str, Any]]) -> float:
    """Over every peer and work; infinite if there was none."""
    return min(
        (
            engine["ratio"]["decode_tok_per_s"]
            for work in works
            for name, engine in work["engines"].items()
            if engine["against"] != name
        ),
        default=float("inf"),
    )


if __name__ == "__main__":
    main()
