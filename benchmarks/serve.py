"""So many streaming clients on qwell serve, on llama.cpp's own server, and the job without HTTP.

    python benchmarks/serve.py MODEL [--clients 16] [--prompt-tokens 256] [--reply-tokens 128]

Both servers stay loaded, as does the model here for LLM.generate; they take turns in every round.
llama.cpp's server has a slot for each client and first tries its settings. The last line is one
JSON object. Its server is built once from the sources of its Python package, in build/peers
(QWELL_PEERS names another folder).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

import clients

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from compare import count
from llama_server import server_of

from qwell.engine.llm import LLM
from qwell.engine.load import load
from qwell.engine.memory import Room
from qwell.engine.types import SamplingParams
from qwell.hub.resolve import resolve

ROOT = Path(
    os.environ.get("QWELL_PEERS") or Path(__file__).parents[1] / "build" / "peers"
).absolute()
SETTINGS = [
    ["-fa", attention, unified] for attention in ("on", "off") for unified in ("-no-kvu", "-kvu")
]
Found = dict[str, float]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--clients", type=count, default=16)
    parser.add_argument("--prompt-tokens", type=count, default=256)
    parser.add_argument("--reply-tokens", type=count, default=128)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--setting", type=int, help="of llama.cpp: this of its settings, untried")
    parser.add_argument("--no-peer", action="store_true", help="only ours")
    return parser.parse_args(argv)


@contextmanager
def running(command: list[str], port: int, log: str) -> Iterator[str]:
    """A server, from when it is healthy to the end of the block."""
    path = ROOT / "logs" / log
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as out:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=out, stderr=out)
    try:
        for _ in range(600):
            try:
                with urlopen(f"http://127.0.0.1:{port}/health"):
                    break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(f"serve: {command[0]} ended: see {path}") from None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def llama(args: argparse.Namespace, setting: list[str]) -> Any:
    room = args.clients * (-(-(args.prompt_tokens + args.reply_tokens) // 256) * 256)
    command = [server_of(ROOT), "-m", str(resolve(args.model).paths[0]), "--no-ui"]
    command += ["-np", str(args.clients), "-c", str(room), "-t", str(args.threads), *setting]
    return running(command, free_port(), "llama-server.log")


def qwell(args: argparse.Namespace) -> Any:
    command = [sys.executable, "-m", "qwell", "serve", args.model, "--threads", str(args.threads)]
    return running(command, free_port(), "qwell-serve.log")


def measure(url: str, args: argparse.Namespace, turn: int) -> Found:
    args.url = url
    rate, ttft, gap = asyncio.run(clients.run(args, turn))
    return {"tok_per_s": rate, "ttft_s": ttft, "largest_gap_s": gap}


def generate(llm: LLM, args: argparse.Namespace, turn: int) -> Found:
    prompts = clients.prompts(args.clients, args.prompt_tokens, turn)
    params = SamplingParams(temperature=0, max_tokens=args.reply_tokens, ignore_eos=True)
    llm.engine.cache.clear()
    begin = time.perf_counter()
    llm.generate(prompts, params)
    return {"tok_per_s": args.clients * args.reply_tokens / (time.perf_counter() - begin)}


def best_setting(args: argparse.Namespace) -> list[str]:
    """The one whose server was fastest in a turn of its own."""
    if args.setting is not None:
        return SETTINGS[args.setting]
    rates = []
    for setting in SETTINGS:
        with llama(args, setting) as url:
            rates.append(measure(url, args, 1000)["tok_per_s"])
            print(f"llama.cpp {' '.join(setting)}: {rates[-1]:.1f} tok/s", flush=True)
    return SETTINGS[rates.index(max(rates))]


def main() -> None:
    args = parse(sys.argv[1:])
    with ExitStack() as held:
        setting = [] if args.no_peer else best_setting(args)
        urls = {"qwell": held.enter_context(qwell(args))}
        if not args.no_peer:
            urls["llama.cpp"] = held.enter_context(llama(args, setting))
        llm = load(args.model, num_threads=args.threads, room=Room(max_seqs=max(64, args.clients)))
        rounds: list[dict[str, Found]] = []
        for turn in range(args.rounds):
            found = {name: measure(url, args, turn) for name, url in urls.items()}
            found["generate"] = generate(llm, args, turn)
            rounds.append(found)
            for name, values in found.items():
                print(f"{turn}: {name:10}", *(f"{k} {v:.2f}" for k, v in values.items()))
            sys.stdout.flush()
    names = [name for name in rounds[0] if name != "qwell"]
    rate = {name: [one[name]["tok_per_s"] for one in rounds] for name in rounds[0]}
    ratios = {
        name: median(a / b for a, b in zip(rate["qwell"], rate[name], strict=True))
        for name in names
    }
    facts = {name: getattr(args, name) for name in ("model", "clients", "prompt_tokens")}
    facts |= {"reply_tokens": args.reply_tokens, "llama_setting": " ".join(setting)}
    print(json.dumps(facts | {"rounds": rounds, "ratio_qwell_to": ratios}))


if __name__ == "__main__":
    main()
