"""A packed model, ready to step: `NativeModel` builds the Program and hands batches to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwell import _core
from qwell.config import ModelConfig
from qwell.errors import MemoryBudgetError, StorageError, UnsupportedModelError
from qwell.model.batch import Batch
from qwell.model.weights import F32, LowRank, Rope, Weights, build_weights
from qwell.native.build import build
from qwell.native.cpu import default_threads, selected_isa
from qwell.native.fuse import fuse, listing
from qwell.native.packed import PackedTensor, damaged, read_table
from qwell.native.record import record

KV_DTYPES = ("bf16", "int8")
"""What keys and values are kept in. int8: one scale for each 32 dims of a token's key or value."""


class NativeModel:
    """The native back end over one packed folder; same face as `ReferenceModel`."""

    def __init__(
        self,
        program: _core.Program,
        config: ModelConfig,
        text: str,
        *,
        key_bias: F32,
        kv_dtype: str = "bf16",
        read_bytes: int = 0,
        adapter_bytes: int = 0,
    ) -> None:
        """key_bias: see `_key_bias`. read_bytes: of weights, that every step with logits reads."""
        self.config, self.max_rows, self.read_bytes = config, program.max_rows, read_bytes
        self.adapter_bytes = adapter_bytes
        """Of an adapter's packed factors."""
        self.kv_dtype = kv_dtype
        self._program, self._listing, self._key_bias = program, text, key_bias

    @classmethod
    def open(
        cls,
        folder: Path,
        config: ModelConfig,
        *,
        num_threads: int | None = None,
        max_rows: int = 256,
        fused: bool = True,
        kv_dtype: str = "bf16",
        adapters: Mapping[str, LowRank] | None = None,
    ) -> NativeModel:
        """Reads the pack in `folder` into memory and builds its program.

        max_rows is the most rows of one step; kv_dtype, of keys and values, one of KV_DTYPES.
        adapters as in `build_weights`; they are packed here, each in the precision of its matrix.
        fused=False gives every op a phase of its own: the slow twin of the fuser. Raises
        StorageError, MemoryBudgetError, UnsupportedModelError.
        """
        check_supported(config)
        tensors, size = read_table(folder)
        factors, data = _pack_factors(adapters, tensors, size)
        try:
            weights = build_weights(config, tensors, factors)
        except KeyError as error:
            raise damaged(folder, f"it has no {error}") from error
        phases = fuse(record(weights), fused)
        selected_isa()  # a wrong QWELL_FORCE_ISA is told before weights are read
        try:
            program = _new_program(folder, config, num_threads or default_threads(), max_rows, size)
            program.append(data)
            build(program, phases, config.head_dim)
        except ValueError as error:
            raise UnsupportedModelError(f"{folder.name}: {error}") from error
        except MemoryError as error:
            raise MemoryBudgetError(
                f"{size:,} bytes of weights do not fit in memory: close other programs, "
                "or choose a smaller model"
            ) from error
        return cls(
            program,
            config,
            listing(phases),
            key_bias=_key_bias(weights),
            kv_dtype=kv_dtype,
            read_bytes=size - _unread_bytes(tensors) + len(data),
            adapter_bytes=len(data),
        )

    @property
    def num_threads(self) -> int:
        return int(self._program.threads)

    @property
    def roles_differ(self) -> bool:
        """Whether prompt rows have a formula of their own: over tiles or pairs."""
        return bool(self._program.roles_differ)

    @property
    def isa(self) -> str:
        return str(self._program.isa)

    @property
    def memory_bytes(self) -> int:
        """Weights in memory; scratch and KV pages are taken as they are used."""
        return int(self._program.weight_bytes)

    def listing(self) -> str:
        """The fused phases, one a line."""
        return self._listing

    def take_times(self) -> list[tuple[str, float]]:
        """(phase, seconds) since the last call, in the order of the step."""
        nanos = self._program.take_times()
        return [(name, t * 1e-9) for name, t in zip(self._program.labels(), nanos, strict=True)]

    def new_kv(self, num_pages: int) -> _core.KvCache:
        """Pages for keys and values in kv_dtype; memory is committed as pages are first used, or
        at once by `commit`. Raises MemoryBudgetError if not even the addresses can be had."""
        rope = Rope(self.config.head_dim, self.config.rope_theta)
        still = rope.still(self._key_bias.reshape(-1, self.config.head_dim))
        try:
            return _core.KvCache(
                self.config.num_layers,
                self.config.num_kv_heads,
                self.config.head_dim,
                num_pages,
                self._key_bias,
                still.reshape(-1),
                rope.inv_freq,
                self.kv_dtype == "int8",
            )
        except MemoryError as error:
            raise MemoryBudgetError(
                f"a KV cache of {num_pages:,} pages does not fit in memory: use a smaller --ctx"
            ) from error

    def step(self, batch: Batch) -> NDArray[np.float32]:
        """Appends the batch's rows to batch.kv and gives logits [R, vocab_size], float32.

        They lie in batch.out_logits if they fit there, else in a fresh array. Raises ValueError
        for a batch out of bounds (an id, a page, more than max_rows rows)."""
        wanted = len(batch.out_rows)
        if batch.out_logits is not None and wanted <= len(batch.out_logits):
            logits = batch.out_logits[:wanted]
        else:
            logits = np.empty((wanted, self.config.vocab_size), np.float32)
        parts = (batch.input_ids, batch.row_splits, batch.past, batch.prompt_len)
        table: Any = batch.page_table
        rows = (batch.positions, batch.out_rows)
        self._program.step(*parts, *rows, table, batch.kv, logits)
        return logits


def _pack_factors(
    adapters: Mapping[str, LowRank] | None, tensors: Mapping[str, PackedTensor], size: int
) -> tuple[Mapping[str, LowRank], NDArray[np.uint8]]:
    if not adapters:
        return {}, np.empty(0, np.uint8)
    from qwell.native.adapter import pack_adapters  # a start without one does not pay for it

    return pack_adapters(adapters, tensors, size)


def _unread_bytes(tensors: Mapping[str, PackedTensor]) -> int:
    """Of the embedding, where the head is another matrix: a step reads single rows of it then."""
    embedding = tensors.get("model.embed_tokens.weight")
    return embedding.nbytes if embedding and "lm_head.weight" in tensors else 0


def _key_bias(weights: Weights) -> F32:
    """The bias every key of every layer has before RoPE, [layers * kv heads * head_dim].

    Pages leave it out of what they round: some of its channels are a hundred times what a token
    adds (LOG.md, 2026-11-24; `Rope.still`). Zeros where there is none, or where keys are normed
    after it.
    """
    config = weights.config
    nothing = np.zeros(config.num_kv_heads * config.head_dim, np.float32)
    attentions = [layer.self_attn for layer in weights.layers]
    biases = [None if a.k_norm is not None else a.k_proj.bias for a in attentions]
    return np.concatenate([nothing if b is None else b.float32().reshape(-1) for b in biases])


def check_supported(config: ModelConfig) -> None:
    """Raises UnsupportedModelError for a shape the kernels do not take; cheap, before packing."""
    if config.head_dim % 16 or config.head_dim > 256:
        raise UnsupportedModelError(
            f"head_dim {config.head_dim} is not supported: multiples of 16 up to 256 are"
        )


def _new_program(
    folder: Path, config: ModelConfig, threads: int, max_rows: int, size: int
) -> _core.Program:
    try:
        return _core.Program(
            config.hidden_size,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            config.num_layers,
            config.vocab_size,
            max_rows,
            threads,
            str(folder / "weights.bin"),
            size,
        )
    except RuntimeError as error:
        raise StorageError(f"the packed model cannot be opened: {error}") from error
