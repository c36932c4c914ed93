"""The machine's measured ceilings as lines for people; `bench` and `doctor` print the same ones."""

from __future__ import annotations

from collections.abc import Iterator

from qwell.native.probe import COMPUTE, Ceilings


def peak_name(field: str) -> str:
    """'int8' of int8_gops, 'AMX bf16' of amx_bf16_gflops."""
    return field.rpartition("_")[0].replace("amx_", "AMX ")


def facts(found: Ceilings) -> Iterator[tuple[str, str]]:
    """(name, text) of a line each."""
    yield "clock", f"{found.clock_ghz:.2f} GHz, one core, integer additions"
    yield "read", _read(found.threads, found.read_gb_per_s, found.read_gb_per_s_best_pass)
    if found.threads > 1:
        one = (found.read_gb_per_s_one_thread, found.read_gb_per_s_one_thread_best_pass)
        yield "read", _read(1, *one)
    yield "read best by", found.read_method
    peaks = [(name, getattr(found, name)) for name in COMPUTE]
    values = [f"{peak_name(name)} {value:,.0f}" for name, value in peaks if value]
    absent = [peak_name(name) for name, value in peaks if not value]
    without = f"; none of {', '.join(absent)}" if absent else ""
    yield "compute", f"{', '.join(values)} Gop/s, {_threads(found.threads)}{without}"


def _read(threads: int, value: float, best: float) -> str:
    return f"{value:.1f} GB/s, {_threads(threads)} (fastest pass {best:.1f})"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
