"""qwell and its peers on the same weights and the same work, taking turns in one run.

    python benchmarks/peers/compare.py MODEL [--peers llama,openvino,transformers] [--rounds 5]

Each engine stays loaded in a process of its own, first finds its best setting among those worth
trying, then takes its turn in every round. A peer that cannot be had or fails is reported in one
line and the rest goes on. The last line is one JSON object. Builds what it needs in build/peers
(QWELL_PEERS names another folder).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments import python_of
from models import Models
from peer import Peer, PeerError, Speed, Work
from report import METRICS, Entry, Tried, as_json, best, table

from qwell.errors import QwellError
from qwell.hub.resolve import resolve

HERE = Path(__file__).parent
PEERS = ("llama", "openvino", "transformers")
OURS, TWIN = "qwell", "qwell Q4_0"
IDS = 150_000
"""Random ids are below this: ordinary tokens of every Qwen2.5."""


@dataclass
class Engine:
    name: str
    against: str
    start: Callable[[], Peer]
    """Makes what is missing and loads; PeerError if it cannot."""


def main() -> None:
    args = parse(sys.argv[1:])
    try:
        source = resolve(args.model).paths[0]
    except QwellError as error:
        raise SystemExit(f"compare: {error}") from error
    models = Models(args.model, source, args.root)
    failed: dict[str, str] = {}
    peers = start(engines(args, models), failed)
    try:
        works = [compare(peers, work, args, failed) for work in works_of(args)]
    finally:
        for peer, _ in peers:
            peer.close()
    result = {"model": args.model, "threads": args.threads, "limit": args.limit}
    print(json.dumps(result | {"rounds": args.rounds, "works": works, "failed": failed}))
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
    parser.add_argument(
        "--limit", choices=("avx512", "avx2"), help="hold qwell and llama.cpp to this"
    )
    parser.add_argument("--no-tune", action="store_true", help="every peer's first setting")
    parser.add_argument("--require-decode", type=float, help="end with 1 below this ratio")
    args = parser.parse_args(argv)
    if args.limit and args.peers not in (None, ["llama"]):
        parser.error("--limit compares with llama alone: the others cannot be rebuilt for it")
    args.peers = args.peers or (["llama"] if args.limit else list(PEERS))
    if args.twin and "llama" not in args.peers:
        parser.error("--twin is a form of llama's: add llama to --peers")
    args.root = Path(os.environ.get("QWELL_PEERS") or HERE.parents[1] / "build" / "peers").absolute()
    return args


def names(text: str) -> list[str]:
    found = text.split(",")
    if unknown := set(found) - set(PEERS):
        raise argparse.ArgumentTypeError(f"{unknown.pop()!r} is none of {', '.join(PEERS)}")
    return found


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def counts(text: str) -> list[int]:
    return [count(part) for part in text.split(",")]


def works_of(args: argparse.Namespace) -> list[Work]:
    return [
        make_work(batch, args.prompt_tokens or (512 if batch == 1 else 128), args.gen_tokens)
        for batch in args.batch
    ]


def make_work(batch: int, prompt_tokens: int, gen_tokens: int) -> Work:
    """Seeded random ids: the same for every engine, of no use to any cache."""
    draw = random.Random(0)
    prompts = (tuple(draw.randrange(IDS) for _ in range(prompt_tokens)) for _ in range(batch))
    return Work(tuple(prompts), gen_tokens)


def engines(args: argparse.Namespace, models: Models) -> list[Engine]:
    """Ours first, then the peers in the order asked for, then the twins."""
    threads = str(args.threads)
    env = {"QWELL_FORCE_ISA": args.limit} if args.limit else {}
    llama = f"llama-{args.limit}" if args.limit else "llama"

    def launch(name: str, python: str, script: str, path: str) -> Peer:
        command = [python, str(HERE / script), path, threads]
        log = args.root / "logs" / f"{name.replace(' ', '-')}.log"
        return Peer(name, command, log, env if script == "ours.py" else {})

    def env_of(name: str) -> str:
        return python_of(name, args.root)

    def on(name: str, script: str, environment: str, form: Callable[[str], str]) -> Engine:
        def begin() -> Peer:
            python = env_of(environment)
            return launch(name, python, script, form(python))

        return Engine(name, TWIN if name.endswith("Q4_0") else OURS, begin)

    known = {
        "llama": on("llama.cpp", "llama_peer.py", llama, lambda _: models.gguf()),
        "openvino": on("OpenVINO GenAI", "openvino_peer.py", "openvino", models.openvino),
        "transformers": on(
            "transformers", "transformers_peer.py", "transformers", lambda _: models.bf16()
        ),
    }
    found = [Engine(OURS, OURS, lambda: launch(OURS, sys.executable, "ours.py", args.model))]
    found += [known[name] for name in args.peers]
    if args.twin:
        twin = lambda: launch(TWIN, sys.executable, "ours.py", models.q4_0(env_of(llama)))  # noqa: E731
        found.append(Engine(TWIN, TWIN, twin))
        found.append(on("llama.cpp Q4_0", "llama_peer.py", llama, models.q4_0))
    return found


def start(wanted: Sequence[Engine], failed: dict[str, str]) -> list[tuple[Peer, str]]:
    """The engines that can be had, each with the name of ours it is compared with."""
    peers: list[tuple[Peer, str]] = []
    for engine in wanted:
        if engine.against in failed:
            continue  # nothing to compare it with
        try:
            peers.append((engine.start(), engine.against))
        except PeerError as error:
            fail(engine.name, error, failed)
    return peers


def fail(name: str, error: PeerError, failed: dict[str, str]) -> None:
    failed[name] = str(error)
    print(f"{name} is left out: {error}", file=sys.stderr)
    if name == OURS:
        raise SystemExit(f"compare: {error}")


def compare(
    peers: Sequence[tuple[Peer, str]], work: Work, args: argparse.Namespace, failed: dict[str, str]
) -> dict[str, Any]:
    """Finds every engine's best settings, then lets them take turns; prints the table."""
    turns = []
    for peer, against in peers:
        if peer.name in failed or against in failed:
            continue
        try:
            turns.append((peer, against, tune(peer, work, first_only=args.no_tune)))
        except PeerError as error:
            fail(peer.name, error, failed)
    rounds: dict[str, list[Speed]] = {peer.name: [] for peer, _, _ in turns}
    for _ in range(args.rounds):
        for peer, _, tried in turns:
            if peer.name in failed:
                continue
            try:
                rounds[peer.name].append(take_turn(peer, work, tried))
            except PeerError as error:
                fail(peer.name, error, failed)
    entries = [
        Entry(
            name=peer.name,
            version=peer.version,
            against=against,
            chosen={metric: best(tried, metric) for metric in METRICS},
            tried=tried,
            rounds=rounds[peer.name],
        )
        for peer, against, tried in turns
        if not failed.keys() & {peer.name, against}
    ]
    print(table(work, entries), end="\n\n", flush=True)
    return as_json(work, entries)


def tune(peer: Peer, work: Work, *, first_only: bool) -> list[Tried]:
    """Every setting once to warm up and once for its speed; PeerError if none works."""
    tried = []
    for setting in peer.settings(work.batch)[: 1 if first_only else None]:
        try:
            peer.measure(setting, work)
            tried.append(Tried(setting, peer.measure(setting, work)))
        except PeerError as error:
            tried.append(Tried(setting, None, str(error)))
    if all(t.speed is None for t in tried):
        raise PeerError(tried[0].error)
    return tried


def take_turn(peer: Peer, work: Work, tried: Sequence[Tried]) -> Speed:
    """Prefill and decode, each under the setting that is best at it: the peer's best case."""
    prefill, decode = (best(tried, metric) for metric in METRICS)
    first = peer.measure(prefill, work)
    second = first if decode == prefill else peer.measure(decode, work)
    return Speed(first.prefill_tok_per_s, second.decode_tok_per_s)


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
