"""What this machine gives at best, measured: memory bandwidth, arithmetic, clock.

The core does single measurements; here stands which are taken, in what order, and what counts as
the answer. Arithmetic: the best, for a neighbour can only slow it down. Memory: the median of the
best way to read, for a shared memory bus also has lucky moments (passes of 12 ms at 56 GB/s between
hundreds at 35 were seen) that no model is served in. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import product
from statistics import median
from time import perf_counter

from qwell import _core
from qwell.errors import MemoryBudgetError
from qwell.native.cpu import check_threads, default_threads, selected_isa

BUFFER_BYTES = 512 << 20
"""Of each of the two buffers. One is read while the other waits, so what a cache kept of it is
gone when its turn comes: 1 GB lies between two reads of a line."""
_LEAST_BYTES = 64 << 20
_ROUNDS_OF_ALL, _ROUNDS_OF_FEW, _FEW = 2, 3, 4
_PEAK_TURNS, _PEAK_S = 3, 0.02
_PEAKS = ("f32", "int8", "bf16", "amx_int8", "amx_bf16")


@dataclass(frozen=True)
class ReadMethod:
    """One way to read: streams side by side, bytes asked for ahead (0: none), kind of pages."""

    streams: int
    ahead: int
    huge: bool

    def __str__(self) -> str:
        ahead = f"prefetcht1 {self.ahead // 1024} KB ahead" if self.ahead else "no prefetch"
        streams = "1 stream" if self.streams == 1 else f"{self.streams} streams"
        return f"{ahead}, {streams}, {'2 MB' if self.huge else '4 KB'} pages"


METHODS = tuple(
    ReadMethod(streams, ahead, huge)
    for streams, ahead, huge in product((1, 4), (0, 2048, 4096, 8192), (False, True))
)
"""Page kinds take turns: see BUFFER_BYTES."""


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The best that was measured; GB are 1e9 bytes, a multiplication and an addition two ops.

    Peaks are of all `threads` together, from registers; None where the CPU has no such
    instruction, or the instruction set in use (QWELL_FORCE_ISA) forbids it."""

    isa: str
    threads: int
    clock_ghz: float
    """Of one core in plain integer work."""
    read_gb_per_s: float
    """Median of the passes by read_method, the way with the highest one."""
    read_gb_per_s_best_pass: float
    """The fastest single pass of it."""
    read_method: str
    read_gb_per_s_one_thread: float
    read_gb_per_s_one_thread_best_pass: float
    read_method_one_thread: str
    f32_gflops: float
    int8_gops: float | None
    bf16_gflops: float | None
    amx_int8_gops: float | None
    amx_bf16_gflops: float | None
    seconds: float
    """What measuring took."""

    @property
    def compute(self) -> tuple[str, float]:
        """The highest of the peaks: its field and its value."""
        peaks = {name: getattr(self, name) or 0.0 for name in COMPUTE}
        name = max(peaks, key=lambda name: peaks[name])
        return name, peaks[name]

    def prompt_compute(self, in_bf16: bool) -> tuple[str, float]:
        """The peak of what prompts are multiplied with: bf16 by tiles or pairs, or vectors."""
        if in_bf16:
            name = "amx_bf16_gflops" if self.amx_bf16_gflops else "bf16_gflops"
            return name, getattr(self, name) or 0.0
        vectors = replace(self, amx_int8_gops=None, amx_bf16_gflops=None)
        return vectors.compute

    def best(self, other: Ceilings) -> Ceilings:
        """Of two measurements of one machine, figure by figure, the better one."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for group in _TOGETHER:
            if (getattr(other, group[0]) or 0) > (values[group[0]] or 0):
                values |= {name: getattr(other, name) for name in group}
        return Ceilings(**values | {"seconds": self.seconds + other.seconds})


COMPUTE = ("f32_gflops", "int8_gops", "bf16_gflops", "amx_int8_gops", "amx_bf16_gflops")
_TOGETHER = (
    ("clock_ghz",),
    ("read_gb_per_s", "read_gb_per_s_best_pass", "read_method"),
    ("read_gb_per_s_one_thread", "read_gb_per_s_one_thread_best_pass", "read_method_one_thread"),
    *((name,) for name in COMPUTE),
)


class Probe:
    """Buffers and threads that stay, so that measuring again costs a second."""

    def __init__(
        self,
        num_threads: int | None = None,
        *,
        room: int | None = None,
        buffer_bytes: int | None = None,
    ) -> None:
        """num_threads: by default what this process may use. room: bytes of memory that are free,
        if known; a quarter is taken at most. buffer_bytes: BUFFER_BYTES if not given.

        Raises UsageError for a number of threads the core does not take, MemoryBudgetError for
        room below 0.5 GB and for threads the system refuses."""
        buffer_bytes = buffer_bytes or BUFFER_BYTES
        if room is not None and room // 8 < buffer_bytes:
            buffer_bytes = room // 8
            if buffer_bytes < _LEAST_BYTES:
                raise MemoryBudgetError(
                    f"{room / 1e9:.2f} GB of memory are free, measuring its speed needs 0.5: "
                    "close other programs"
                )
        self.isa = selected_isa()
        threads = default_threads() if num_threads is None else num_threads
        self.threads = check_threads(threads, "num_threads")
        try:
            self._core = _core.Probe(self.threads, buffer_bytes, self.isa)
        except (MemoryError, RuntimeError) as error:
            raise MemoryBudgetError(
                f"the probe cannot start ({error}): use fewer threads"
            ) from error

    def measure(self) -> Ceilings:
        """All ceilings: about a second."""
        start = perf_counter()
        clock = max(_core.Probe.clock() for _ in range(20))
        both = [self._read(n) for n in sorted({1, self.threads})]
        one, all_threads = both[0], both[-1]
        peaks = {kind: self._peak(kind) for kind in _PEAKS}
        return Ceilings(
            isa=self.isa,
            threads=self.threads,
            clock_ghz=clock * 1e-9,
            read_gb_per_s=median(all_threads[1]),
            read_gb_per_s_best_pass=max(all_threads[1]),
            read_method=str(all_threads[0]),
            read_gb_per_s_one_thread=median(one[1]),
            read_gb_per_s_one_thread_best_pass=max(one[1]),
            read_method_one_thread=str(one[0]),
            f32_gflops=peaks["f32"] or 0.0,
            int8_gops=peaks["int8"],
            bf16_gflops=peaks["bf16"],
            amx_int8_gops=peaks["amx_int8"],
            amx_bf16_gflops=peaks["amx_bf16"],
            seconds=perf_counter() - start,
        )

    def bandwidth(self) -> float:
        """`read_gb_per_s` alone, in about half the time of all ceilings."""
        return median(self._read(self.threads)[1])

    def _read(self, readers: int) -> tuple[ReadMethod, list[float]]:
        """The best method and what each of its passes gave, in GB/s. Methods take turns, so a
        neighbour meets them all; after two rounds only the best go on."""
        found: dict[ReadMethod, list[float]] = {method: [] for method in METHODS}
        for turn in range(_ROUNDS_OF_ALL + _ROUNDS_OF_FEW):
            if turn == _ROUNDS_OF_ALL:
                ranked = sorted(found.items(), key=lambda item: -max(item[1]))
                found = dict(ranked[:_FEW])
            for m, passes in found.items():
                passes.append(self._core.read(readers, m.huge, m.streams, m.ahead) * 1e-9)
        return max(found.items(), key=lambda item: median(item[1]))

    def _peak(self, kind: str) -> float | None:
        # AMX counts where the best instruction set is in use, not where it was limited.
        if kind.startswith("amx") and self.isa != _core.isa_available()[-1]:
            return None
        turns = (self._core.peak(kind, _PEAK_S) for _ in range(_PEAK_TURNS))
        return max(turns) * 1e-9 or None


def measure(num_threads: int | None = None, *, room: int | None = None) -> Ceilings:
    """Measures once, in under 5 s; arguments and errors as in `Probe`."""
    start = perf_counter()
    found = Probe(num_threads, room=room).measure()
    return Ceilings(**{**vars(found), "seconds": perf_counter() - start})
