"""
The native core of qwell: packed formats, kernels, and the program that walks them.
"""

from collections.abc import Sequence
import enum
from typing import Annotated

import numpy
from numpy.typing import NDArray


PANEL: int = 32

class Format(enum.Enum):
    F32 = 0

    F16 = 1

    BF16 = 2

    Q4_0 = 3

    Q4_1 = 4

    Q5_0 = 5

    Q5_1 = 6

    Q8_0 = 7

    Q2_K = 8

    Q3_K = 9

    Q4_K = 10

    Q5_K = 11

    Q6_K = 12

def isa_available() -> list[str]:
    """Instruction sets that run here, worst first."""

def isa_selected() -> str:
    """The one in use: the best, or QWELL_FORCE_ISA."""

def amx_status() -> str:
    """'ok', or why prompts are not read by AMX here."""

def cpu_features() -> dict: ...

def format_info(arg: Format, /) -> tuple:
    """(inputs of a block, bytes of a block of 32 columns, integer?)"""

def gather_column(arg0: Format, arg1: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], arg2: int, arg3: int, arg4: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')], /) -> None:
    """One column of a packed matrix, dequantised."""

def linear(isa: str, format: Format, packed: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], n: int, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], paired: bool = False) -> None: ...

def attention(isa: str, q: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], pages: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], head_dim: int, first_position: int, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None: ...

def cache_attention(isa: str, q: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], cache: KvCache, first_position: int, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None: ...

def cache_write(cache: KvCache, position: int, key: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], value: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None: ...

def cache_page(cache: KvCache, page: int) -> bytes: ...

def cache_unpack(isa: str, cache: KvCache, page: int, out: Annotated[NDArray[numpy.uint16], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

def row_op(isa: str, op: str, a: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], b: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], n: int, eps: float, y: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

def tile_linear(isa: str, format: Format, packed: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], n: int, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], group: int = 1) -> None: ...

def tile_attention(isa: str, q: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], pages: Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu', writable=False)], head_dim: int, first_position: int, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None: ...

class Product:
    """One matrix of a linear phase: its epilogue and destination."""

    def bias(self, arg: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], /) -> None: ...

    def norm(self, arg0: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], arg1: float, /) -> None: ...

    def rope(self, arg: int, /) -> None: ...

    def add(self, arg: int, /) -> None: ...

    def silu_mul(self, arg: int, /) -> None: ...

    def to_slot(self, arg: int, /) -> None: ...

    def to_keys(self, arg: int, /) -> None: ...

    def to_values(self, arg: int, /) -> None: ...

    def to_output(self) -> None: ...

    def as_pair(self) -> None: ...

class KvCache:
    """Pages of keys and values, committed as they are used."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, pages: int, key_bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], still: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], inv_freq: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], int8: bool) -> None:
        """
        key_bias [layers * kv_heads * head_dim], what k_proj adds to every key, and what of it is `Rope.still`; both empty for nothing.
        """

    def commit(self) -> None:
        """Takes the memory of all pages now. Raises MemoryError."""

    @property
    def pages(self) -> int: ...

class Program:
    """Phases over static buffers; one step is one call without the GIL."""

    def __init__(self, hidden: int, heads: int, kv_heads: int, head_dim: int, layers: int, vocab: int, max_rows: int, threads: int, weights: str, bytes: int) -> None: ...

    def append(self, bytes: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> None:
        """More packed weights, behind those of the file."""

    def slot(self, width: int) -> int: ...

    def product(self, format: Format, n: int, k: int, offset: int, unit: int) -> Product: ...

    def angles(self, arg0: int, arg1: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], /) -> None: ...

    def embed(self, arg0: int, arg1: Format, arg2: int, arg3: int, arg4: int, /) -> None: ...

    def linear(self, label: str, in_: int, select: bool, out_rows: bool, norm: object | None, eps: float, products: Sequence[Product]) -> None: ...

    def attention(self, arg0: int, arg1: int, arg2: int, /) -> None: ...

    def store(self, arg0: int, arg1: int, arg2: bool, /) -> None: ...

    def select(self, arg0: int, arg1: int, /) -> None: ...

    def norm(self, arg0: int, arg1: int, arg2: bool, arg3: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], arg4: float, /) -> None: ...

    def row_op(self, arg0: str, arg1: int, arg2: int, arg3: int, arg4: bool, /) -> None: ...

    def finish(self) -> None: ...

    def step(self, input_ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], row_splits: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], past: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], prompt_len: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], positions: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], out_rows: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], page_table: Annotated[NDArray[numpy.int32], dict(shape=(None, None), order='C', device='cpu', writable=False)], kv: KvCache, logits: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None: ...

    def take_times(self) -> list[int]:
        """Nanoseconds of each phase since the last call."""

    def labels(self) -> list[str]: ...

    @property
    def max_rows(self) -> int: ...

    @property
    def threads(self) -> int: ...

    @property
    def isa(self) -> str: ...

    @property
    def roles_differ(self) -> bool: ...

    @property
    def weight_bytes(self) -> int: ...

class Probe:
    """What memory and arithmetic give at best; one call, one measurement."""

    def __init__(self, threads: int, bytes: int, isa: str) -> None: ...

    def read(self, readers: int, huge: bool, streams: int, ahead: int) -> float:
        """
        Bytes a second of one pass over the buffer on 4 KB or (huge) 2 MB pages.
        """

    def peak(self, kind: str, seconds: float) -> float:
        """
        Operations a second on registers: f32, int8, bf16, amx_int8 or amx_bf16; 0 if not here.
        """

    @staticmethod
    def clock() -> float:
        """Cycles a second, from dependent additions over about 1 ms."""

NOT_FINITE: int = -1

NOTHING_LEFT: int = -2

class Sampler:
    """One request's rule of choice, and the tokens its penalties count."""

    def __init__(self, *, vocab: int, prompt: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], temperature: float, top_p: float, min_p: float, top_k: int, repetition: float, presence: float, frequency: float, seed: int, choice: int, min_tokens: int, bias: Sequence[tuple[int, float]], stop_ids: Sequence[int]) -> None: ...

    def push(self, token: int) -> None:
        """The reply has this token."""

    @property
    def position(self) -> int:
        """How many tokens prompt and reply have."""

def sample(samplers: Sequence[Sampler], logits: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], masks: Sequence[Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None], threads: int = 1) -> list[int]:
    """
    The next token of each row, or NOT_FINITE or NOTHING_LEFT; bit t % 32 of word t / 32 of a mask allows t.
    """

def largest(x: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], n: int) -> list[int]:
    """The ids of the n largest, largest first, ties to the lowest id."""

def log_sum_exp(x: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> float: ...

class TrainKernels:
    def __init__(self, threads: int, form: str) -> None: ...

    @staticmethod
    def forms() -> list[str]:
        """Those that run here, the best last."""

    def gemm(self, a: int, a_row: int, a_column: int, b: int, b_row: int, b_column: int, a2: int, a2_row: int, a2_column: int, b2: int, b2_row: int, b2_column: int, bias: int, c: int, m: int, n: int, k: int, k2: int, add: bool, wide: bool) -> None: ...

    def norm(self, x: int, weight: int, y: int, rstd: int, rows: int, n: int, eps: float, wide: bool) -> None: ...

    def norm_back(self, grad: int, x: int, weight: int, rstd: int, grad_x: int, grad_weight: int, rows: int, n: int, wide: bool) -> None: ...

    def rope(self, x: int, cos: int, sin: int, y: int, rows: int, heads: int, half: int, sign: float) -> None: ...

    def silu_mul(self, gate: int, up: int, y: int, n: int, gate16: int, up16: int) -> None: ...

    def silu_mul_back(self, grad: int, gate: int, up: int, grad_gate: int, grad_up: int, n: int, wide: bool) -> None: ...

    def round(self, x: int, n: int, y: int) -> None: ...

    def cross_entropy(self, logits: int, targets: int, nll: int, rows: int, n: int, scale: float) -> None: ...

    def attention(self, q: int, k: int, v: int, out: int, lse: int, splits: int, seqs: int, heads: int, kv_heads: int, head_dim: int, grad_out: int, grad_q: int, grad_k: int, grad_v: int) -> None: ...

    def dequantise(self, codes: int, scale: int, minimum: int, bits: int, zero: int, group: int, rows: int, n: int, out: int) -> None: ...

    def square_sum(self, x: int, n: int) -> float: ...

    def adamw(self, weight: int, grad: int, n: int, m: int, v: int, m_scale: int, v_scale: int, low: int, beta1: float, beta2: float, eps: float, decay: float, lr: float, grad_scale: float, correct1: float, correct2: float, seed: int) -> None: ...
