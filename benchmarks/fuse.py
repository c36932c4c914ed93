"""The fuser's program against the hand-written list, alternated: decode must not pay for it.

python benchmarks/fuse.py qwen2.5-coder:0.5b [--rounds 9]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.native.handwritten import open_handwritten

from peers.ours import measure
from qwell.engine.load import load
from qwell.hub import packs
from qwell.hub.resolve import resolve
from qwell.native import default_threads, packed_key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    fused = load(args.model).engine.backend
    pack = packs.packed_dir() / packed_key([p.absolute() for p in resolve(args.model).paths])
    by_hand = open_handwritten(pack, fused.config, default_threads())
    ratios = []
    for i in range(args.rounds + 1):
        pair = [measure(m, 64, 64).decode_tok_per_s for m in (fused, by_hand)]
        if i:
            ratios.append(pair[0] / pair[1])
            print(f"  fused {pair[0]:6.1f}  by hand {pair[1]:6.1f}  ratio {ratios[-1]:.3f}")
    print(f"median ratio {median(ratios):.3f}")


if __name__ == "__main__":
    main()
