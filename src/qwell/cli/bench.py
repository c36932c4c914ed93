"""`qwell bench MODEL`: how fast this machine runs it, and how much of the machine that is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qwell.cli.opening import open_model
from qwell.cli.terminal import note

if TYPE_CHECKING:
    from qwell.checkpoint.tensor import Checkpoint
    from qwell.engine.llm import LLM
    from qwell.engine.types import SamplingParams
    from qwell.native.probe import Ceilings

Json = dict[str, Any]
_KL_WINDOW = 128


def bench(
    model: str,
    *,
    prompt_tokens: int = 512,
    gen_tokens: int = 128,
    batch: Sequence[int] = (1, 4, 16),
    repeat: int = 3,
    greedy: bool = False,
    kl: bool = False,
    threads: int | None = None,
    int8: bool = False,
    kv_dtype: str | None = None,
    adapter: str | None = None,
    as_json: bool = False,
) -> None:
    """Prints a table, or one JSON object."""
    # bench makes its own contexts
    llm = open_model(model, ctx=1, threads=threads, int8=int8, kv_dtype=kv_dtype, adapter=adapter)
    from qwell.checkpoint import open_checkpoint
    from qwell.eval import speed
    from qwell.hub.resolve import resolve

    backend = speed.check_backend(llm)
    checkpoint, params = open_checkpoint(resolve(model).paths), _params(llm, greedy)
    found, ceilings = speed.bench(
        llm,
        [speed.Work(batch=n, prompt_tokens=prompt_tokens, gen_tokens=gen_tokens) for n in batch],
        params=params,
        weight_bytes=speed.weight_bytes(checkpoint) + backend.adapter_bytes,
        repeat=repeat,
        progress=note,
    )
    result: Json = {
        "model": llm.name,
        "isa": backend.isa,
        "threads": backend.num_threads,
        "repeat": repeat,
        "sampling": {name: getattr(params, name) for name in _SAMPLING},
        "adapter": llm.adapter_id or None,
        "kl": _kl(llm, model, int8, checkpoint if kl else None, adapter),
        "runs": [speed.summary(runs) for runs in found],
        "ceilings": asdict(ceilings),
    }
    print(json.dumps(result) if as_json else table(result, ceilings))


_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")


def _params(llm: LLM, greedy: bool) -> SamplingParams:
    """As `qwell run` samples, or the likeliest token and nothing else."""
    from qwell.engine.types import SamplingParams

    return SamplingParams(temperature=0) if greedy else SamplingParams.defaults(llm.generation)


def _kl(
    llm: LLM, model: str, int8: bool, checkpoint: Checkpoint | None, adapter: str | None
) -> Json | None:
    """Mean KL to float32 of both paths and where the figures are from: measured now on one short
    window if a checkpoint is given, else what `qwell verify` found; None if it never ran, or spoke
    of the model without its adapter."""
    from qwell.engine.packed import packed_folder
    from qwell.eval import speed
    from qwell.eval.recorded import recorded
    from qwell.hub.resolve import resolve

    if checkpoint is not None:
        from qwell.eval import parity

        note("measuring the divergence from float32")
        paths = parity.one_window(llm, checkpoint, _KL_WINDOW, adapter=adapter)
        means = {path: found.kl_mean for path, found in paths.items()}
        return means | {"windows": 1, "window_tokens": _KL_WINDOW, "date": None}
    if adapter is not None:
        return None
    report = recorded(packed_folder(resolve(model), int8=int8), speed.check_backend(llm).kv_dtype)
    if report is None:
        return None
    means = {path: found["kl_mean"] for path, found in report["paths"].items()}
    return means | {name: report[name] for name in ("windows", "window_tokens", "date")}


# --- for people ------------------------------------------------------------------------------


def table(result: Mapping[str, Any], ceilings: Ceilings) -> str:
    """The result as columns, one a batch size, and the ceilings under it."""
    from qwell.cli.ceilings import facts, peak_name
    from qwell.eval.report import align

    runs: list[Json] = result["runs"]
    first = runs[0]
    peak = f"  of the {peak_name(first['compute_ceiling'])} peak"
    lines = [["", *(f"batch {run['batch']}" for run in runs)]]
    lines += [
        [label, *(show(run[name]) for run in runs)]
        for label, name, show in (
            ("prefill, tokens/s", "prefill_tok_per_s", _one),
            (peak, "prefill_of_compute", _percent),
            ("decode, tokens/s, all together", "decode_tok_per_s", _one),
            ("  GB/s", "decode_gb_per_s", _one),
            ("  of the read bandwidth", "decode_of_bandwidth", _percent),
            ("  MB a token", "bytes_per_token", lambda value: _one(value / 1e6)),
        )
    ]
    for part in ("prefill", "decode"):
        lines.append(["", *("" for _ in runs)])
        lines.append([f"{part}, ms a step", *(_one(_step_ms(run, part)) for run in runs)])
        for kind in first["phases_ms"][part]:
            cells = [run["phases_ms"][part][kind] / run[f"{part}_steps"] for run in runs]
            lines.append([f"  {kind}", *map(_two, cells)])
    machine = [f"{name:<14}{text}" for name, text in facts(ceilings)]
    return "\n".join([_head(result), "", align(lines), "", *machine])


def _head(result: Mapping[str, Any]) -> str:
    run, sampling = result["runs"][0], result["sampling"]
    how = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in sampling.items())
    threads = result["threads"]
    return (
        f"{result['model']}: {result['isa']}, {threads} thread{'s' if threads > 1 else ''}; "
        f"{run['prompt_tokens']:,} prompt tokens, {run['gen_tokens']:,} after them; "
        f"median of {result['repeat']}\n"
        f"sampling: {'greedy' if sampling['temperature'] == 0 else how}\n"
        f"KL to float32: {_kl_text(result['kl'])}"
    )


def _kl_text(kl: Mapping[str, Any] | None) -> str:
    if kl is None:
        return "not measured: run qwell verify"
    when = f"verified {kl['date']}" if kl["date"] else "measured now"
    return (
        f"{kl['prefill']:.5f} prefill, {kl['decode']:.5f} decode "
        f"({kl['windows']} x {kl['window_tokens']} tokens, {when})"
    )


def _step_ms(run: Json, part: str) -> float:
    return float(sum(run["phases_ms"][part].values()) / run[f"{part}_steps"])


def _one(value: float) -> str:
    return f"{value:,.1f}"


def _two(value: float) -> str:
    return f"{value:,.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
