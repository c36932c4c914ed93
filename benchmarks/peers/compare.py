"""qwell against llama.cpp on the same file and the same work, alternated in one run.

    python benchmarks/peers/compare.py MODEL PEER_PYTHON [--rounds 5] [--require-decode 1.0]

Both stay loaded; they take turns, so a change of the machine's speed meets both. Prints medians
and the median of the ratios round by round; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from statistics import median

from ours import measure

from qwell.engine.load import load
from qwell.hub.resolve import resolve

METRICS = ("decode_tok_per_s", "prefill_tok_per_s")


class Peer:
    """The other engine, in its own process and environment."""

    def __init__(self, python: str, path: Path, threads: int, tokens: int) -> None:
        script = Path(__file__).parent / "llama_peer.py"
        command = [python, str(script), str(path), str(threads), str(tokens)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, prompt_tokens: int, gen_tokens: int) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{prompt_tokens} {gen_tokens}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer ended early; run its command by hand to see why")
        answer: dict[str, float] = json.loads(line)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("peer_python")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--gen-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--require-decode", type=float, help="end with 1 below this ratio")
    args = parser.parse_args()
    work = (args.prompt_tokens, args.gen_tokens)
    peer = Peer(args.peer_python, resolve(args.model).paths[0], args.threads, sum(work) + 16)
    ours = load(args.model, num_threads=args.threads).engine.backend
    rounds = []
    for i in range(args.rounds + 1):
        pair = {"qwell": vars(measure(ours, *work)), "llama.cpp": peer.measure(*work)}
        if i:  # the first round warms both
            rounds.append(pair)
    result = {"model": args.model, "isa": ours.isa, "threads": args.threads, "rounds": args.rounds}
    print(f"{args.model}, {args.threads} threads, {ours.isa}, medians of {args.rounds} rounds")
    for metric in METRICS:
        mine, theirs = ([r[name][metric] for r in rounds] for name in ("qwell", "llama.cpp"))
        ratio = median(a / b for a, b in zip(mine, theirs, strict=True))
        result[metric] = {"qwell": median(mine), "llama.cpp": median(theirs), "ratio": ratio}
        print(
            f"  {metric:18s} qwell {median(mine):8.1f}   llama.cpp {median(theirs):8.1f}"
            f"   ratio {ratio:.2f}"
        )
    print(json.dumps(result))
    if args.require_decode and result["decode_tok_per_s"]["ratio"] < args.require_decode:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
