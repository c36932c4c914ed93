"""A peer without an engine, on the real protocol: its settings say what it answers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "peers"))

from serve import Setting, Times, serve


def measure(setting: Setting, prompts: list[list[int]], gen_tokens: int) -> Times:
    os.write(1, b"noise on stdout\n")
    if setting.get("raises"):
        raise RuntimeError("two\nlines")
    if setting.get("ends"):
        print("no memory left", file=sys.stderr, flush=True)
        os._exit(3)
    return Times(setting["prefill"], setting["decode"], gen_tokens * len(prompts))


if __name__ == "__main__":
    slow, fast = {"prefill": 2.0, "decode": 4.0}, {"prefill": 1.0, "decode": 8.0}
    if "dies" in sys.argv:
        sys.exit("cannot load")
    many = [{"ends": True}] if "ends" in sys.argv else [{"raises": True}, slow, fast]
    serve("echo", "1.0", measure, [slow], many)
