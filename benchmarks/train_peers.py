"""One training step of a real model, here and in transformers + PEFT, in turns.

Every contestant runs in a process of its own (so its memory is its own), takes the same documents
of 512 tokens in the same order with the same learning rate, and prints a JSON line. There is no
padding in them: the peer loses nothing to it. 'peer' is its defaults in bf16, SDPA among them;
'peer-best' adds the fused optimizer; 'peer-compile' torch.compile too; 'peer-master' keeps float32
weights and multiplies in bf16 (autocast), for its optimizer holds no master of bf16 weights.
'ours-8bit' has 8-bit moments and stochastic rounding, 'ours-8bit-master' a float32 master.

    python benchmarks/train_peers.py --kind lora --rounds 2
    python benchmarks/train_peers.py --kind full --only ours ours-8bit --rounds 1 --steps 32
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwell.native.probe import Ceilings

DOCUMENT = 512
RANK, ALPHA, LR = 16, 32, 1e-5
CONTESTANTS = {
    "full": ("ours", "ours-8bit", "peer", "peer-best"),
    "lora": ("ours", "peer", "peer-best"),
}
Step = Callable[[Any], float]


def main() -> None:
    args = options().parse_args()
    if args.contestant:
        print(json.dumps(contest(args)), flush=True)
        return
    folder = bf16_folder(args.model, args.work)
    found: dict[str, list[dict[str, Any]]] = {}
    from qwell.native.probe import measure

    peak = bf16_peak(measure())
    for turn in range(args.rounds):
        for name in args.only or CONTESTANTS[args.kind]:
            result = run(name, folder, args)
            found.setdefault(name, []).append(result)
            print(f"round {turn + 1} {name}: {json.dumps(result)}", flush=True)
    peak = max(peak, bf16_peak(measure()))
    print(table(args.kind, found, peak, flops_per_token(folder, args.kind)))
    print(json.dumps({"kind": args.kind, "peak_gflops": peak, "results": found}))


def bf16_peak(found: Ceilings) -> float:
    """What this machine gives at best where bf16 is multiplied, GFLOPS."""
    return max(found.amx_bf16_gflops or 0, found.bf16_gflops or 0, found.f32_gflops)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="qwen2.5-coder:0.5b")
    parser.add_argument("--kind", choices=("full", "lora"), default="lora")
    parser.add_argument("--tokens", type=int, default=1024, help="of one step")
    parser.add_argument("--steps", type=int, default=4, help="timed, after one that is not")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="contestants, by name")
    parser.add_argument("--work", type=Path, default=Path("build/train-peers"))
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def run(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--contestant", name, "--folder", str(folder)]
    command += ["--kind", args.kind, "--tokens", str(args.tokens), "--steps", str(args.steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def bf16_folder(model: str, work: Path) -> Path:
    """The model's dequantised weights in bf16, as a folder everyone opens; head tied."""
    from qwell.train.weights import load_decoder, save_folder

    folder = work / model.replace(":", "-").replace("/", "-")
    if not folder.exists():
        loaded = load_decoder(model, head="tied")
        save_folder(
            folder,
            loaded.decoder,
            generation=loaded.generation,
            tokenizer=loaded.tokenizer,
            chat_template=loaded.chat_template,
        )
    return folder


def contest(args: argparse.Namespace) -> dict[str, Any]:
    """Steps of one contestant in this process."""
    documents = texts(args.folder, args.tokens // DOCUMENT * (args.steps + 1))
    build = ours if args.contestant.startswith("ours") else peer
    step = build(args.contestant, args.kind, args.folder)
    losses, seconds = [], []
    gc.freeze()  # as our loop does; for everybody
    per_step = args.tokens // DOCUMENT
    for i in range(args.steps + 1):
        start = time.perf_counter()
        losses.append(step(documents[i * per_step : (i + 1) * per_step]))
        seconds.append(time.perf_counter() - start)
    return {
        "tok_per_s": round(args.tokens / statistics.median(seconds[1:]), 1),
        "best_tok_per_s": round(args.tokens / min(seconds[1:]), 1),
        "first_s": round(seconds[0], 2),
        "losses": [round(loss, 4) for loss in losses],
        "peak_gb": round(peak_bytes() / 1e9, 2),
    }


def peak_bytes() -> int:
    """Resident memory of this process at most. (ru_maxrss would begin with its parent's.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def texts(folder: Path, count: int) -> Any:
    """[count, DOCUMENT] token ids of running text."""
    import numpy as np

    from qwell.eval.text import find_text
    from qwell.text.tokenizer import Tokenizer

    need = count * DOCUMENT
    ids = Tokenizer.from_folder(folder).encode(find_text(None).text[: 10 * need])[:need]
    return np.asarray(ids, np.int32).reshape(count, DOCUMENT)


def ours(name: str, kind: str, folder: Path) -> Step:
    import qwell.train  # noqa: F401, I001  before torch: it settles how torch's threads wait

    import numpy as np
    import torch

    from qwell.data.rows import Rows
    from qwell.train.lora import LoraConfig, add_lora
    from qwell.train.losses import cross_entropy
    from qwell.train.optim import AdamW, AdamWConfig, clip_scale, grad_norm
    from qwell.train.weights import load_decoder

    decoder = load_decoder(str(folder)).decoder
    if kind == "lora":
        add_lora(decoder, LoraConfig(rank=RANK, alpha=ALPHA))
    config = AdamWConfig(
        betas=(0.9, 0.999),
        weight_decay=0.01,
        states="int8" if "8bit" in name else "f32",
        master="none" if name == "ours-8bit" else "split",
    )
    optimizer = AdamW(decoder.named_parameters(), config)

    def step(documents: Any) -> float:
        count, length = documents.shape
        is_target = np.tile(np.arange(length) > 0, count)
        splits = np.arange(0, count * length + 1, length, dtype=np.int32)
        rows = Rows(documents.reshape(-1), splits, is_target)
        targets = torch.from_numpy(rows.targets).long()
        loss = decoder(
            rows.batch(), partial(cross_entropy, targets=targets, scale=1 / rows.num_targets)
        )
        loss.backward()
        norm = grad_norm(optimizer.parameters.values())
        optimizer.step(LR, grad_scale=clip_scale(norm, 1.0))
        optimizer.zero_grad()
        return loss.item()

    return step


def peer(name: str, kind: str, folder: Path) -> Step:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    master = "master" in name
    dtype = torch.float32 if master else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if kind == "lora":
        model = get_peft_model(
            model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
        )
    model.train()
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=LR, fused="best" in name or None)
    forward = torch.compile(model) if "compile" in name else model

    def step(documents: Any) -> float:
        ids = torch.from_numpy(documents).long()
        with torch.autocast("cpu", torch.bfloat16, enabled=master):
            loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def flops_per_token(folder: Path, kind: str) -> float:
    """Operations of one token's products, forward and backward; attention at DOCUMENT / 2 keys."""
    from qwell.checkpoint import open_checkpoint

    c = open_checkpoint(folder).config
    D, F, H = c.hidden_size, c.intermediate_size, c.head_dim
    layer = D * H * (2 * c.num_heads + 2 * c.num_kv_heads) + 3 * D * F
    matrices = c.num_layers * layer + c.vocab_size * D
    attention = c.num_layers * 2 * c.num_heads * H * DOCUMENT / 2 * 2
    return 2 * matrices * (3 if kind == "full" else 2) + 3 * attention


def table(kind: str, found: dict[str, list[dict[str, Any]]], peak: float, flops: float) -> str:
    lines = [
        f"{kind}: {flops / 1e9:.2f} GFLOP a token, bf16 peak {peak / 1e3:.2f} TFLOPS",
        "| | tok/s (median of rounds) | MFU | peak memory GB | last loss |",
        "|---|---|---|---|---|",
    ]
    for name, results in found.items():
        speed = statistics.median(r["tok_per_s"] for r in results)
        mfu = f"{speed * flops / (peak * 1e9):.0%}"
        memory = max(r["peak_gb"] for r in results)
        lines.append(f"| {name} | {speed:.0f} | {mfu} | {memory} | {results[0]['losses'][-1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
