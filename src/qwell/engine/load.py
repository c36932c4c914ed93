"""A name becomes a loaded model: files, packed cache (packed.py), memory check, LLM."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from qwell.config import GenerationConfig, ModelConfig
from qwell.engine import packed
from qwell.engine.llm import LLM
from qwell.engine.memory import Room, plan_pages
from qwell.engine.packed import Facts, Progress
from qwell.engine.types import Backend
from qwell.errors import UsageError
from qwell.hub.resolve import ResolvedModel, resolve
from qwell.text.template import ChatTemplate
from qwell.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from qwell.checkpoint import Adapter

DEFAULT_CTX = 32_768


def load(
    model: str,
    *,
    ctx: int | None = None,
    num_threads: int | None = None,
    backend: str = "native",
    int8: bool = False,
    kv_dtype: str | None = None,
    adapter: str | Path | None = None,
    room: Room | None = None,
    progress: Progress | None = None,
) -> LLM:
    """Loads `model`: an alias, a Hugging Face id, a folder or a .gguf file.

    ctx: tokens a request may have, prompt and reply; by default the model's own limit, at most
    32,768. num_threads: of the native back end, by default what this process may use.
    backend: 'native', or 'reference' (NumPy float32, slow, the truth). int8: the native back end
    packs bf16, f16 and f32 matrices to int8 (Q8_0); those of quantised files stay as they are.
    kv_dtype: of keys and values, 'bf16' (the default) or 'int8', which takes half the memory.
    adapter: the folder of a PEFT adapter of this model; it is run beside the weights, which stay
    as they are. room: how many requests at a time, and the memory for their keys and values.
    Raises what `resolve` raises, CheckpointError, UnsupportedModelError, UsageError,
    StorageError (the cache cannot be written), MemoryBudgetError.
    """
    start = perf_counter()
    if backend not in ("native", "reference"):
        raise UsageError(f"backend {backend!r} is unknown; it is 'native' or 'reference'")
    if ctx is not None and ctx < 1:
        raise UsageError(f"ctx is {ctx}; it must be at least 1")
    native_only = {
        "int8": int8,
        "num_threads": num_threads is not None,
        "kv_dtype": kv_dtype is not None,
    }
    for name, is_given in native_only.items():
        if is_given and backend == "reference":
            raise UsageError(f"{name} is for the native back end only")
    asked = _Asked(
        resolved=resolve(model),
        ctx=ctx,
        adapter=None if adapter is None else Path(adapter).expanduser(),
        room=room or Room(),
    )
    if backend == "native":
        llm = _load_native(
            asked,
            num_threads=num_threads,
            int8=int8,
            kv_dtype=kv_dtype or "bf16",
            progress=progress,
        )
    else:
        llm = _load_reference(asked)
    llm.engine.load_ms = 1000 * (perf_counter() - start)
    return llm


def load_tokenizer(model: str) -> Tokenizer:
    """The tokenizer of `model` alone, from the packed cache if it is there. Writes nothing."""
    resolved = resolve(model)
    folder = packed.packed_folder(resolved)
    if packed.read_facts(folder) is not None:
        return Tokenizer.from_file(folder / packed.TOKENIZER)
    from qwell.checkpoint import open_checkpoint

    return packed.tokenizer_of(open_checkpoint(resolved.paths))


def load_template(model: str) -> ChatTemplate | None:
    """The chat template of `model`, without its weights; None if its files bring none."""
    resolved = resolve(model)
    facts = packed.read_facts(packed.packed_folder(resolved))
    if facts is None:
        from qwell.checkpoint import open_checkpoint

        facts = packed.facts_of(open_checkpoint(resolved.paths))
    return _template(facts)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What both back ends are loaded by."""

    resolved: ResolvedModel
    ctx: int | None
    adapter: Path | None
    room: Room


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is settled before weights are read, so that what does not fit is refused at once."""

    facts: Facts
    ctx: int
    num_pages: int
    adapter: Adapter | None


def _plan(asked: _Asked, facts: Facts, *, base_bytes: int, kv_dtype: str) -> _Plan:
    """base_bytes: weights in memory, without those of an adapter."""
    name, config = asked.resolved.name, facts.config
    ctx = _context(name, config, asked.ctx)
    adapter = _open_adapter(asked.adapter, config)
    num_pages = plan_pages(
        name,
        config,
        weight_bytes=base_bytes + (adapter.nbytes if adapter else 0),
        ctx=ctx,
        kv_dtype=kv_dtype,
        room=asked.room,
    )
    return _Plan(facts=facts, ctx=ctx, num_pages=num_pages, adapter=adapter)


def _load_native(
    asked: _Asked,
    *,
    num_threads: int | None,
    int8: bool,
    kv_dtype: str,
    progress: Progress | None,
) -> LLM:
    from qwell.native import KV_DTYPES, NativeModel, check_threads

    if kv_dtype not in KV_DTYPES:
        raise UsageError(f"kv_dtype {kv_dtype!r} is unknown; it is 'bf16' or 'int8'")
    if num_threads is not None:
        check_threads(num_threads, "num_threads")
    folder = packed.packed_folder(asked.resolved, int8=int8)
    facts = packed.read_facts(folder)
    facts = facts or packed.pack(asked.resolved, folder, int8=int8, progress=progress)
    base_bytes = (folder / packed.WEIGHTS).stat().st_size
    plan = _plan(asked, facts, base_bytes=base_bytes, kv_dtype=kv_dtype)
    # Weights are read without the GIL: the text side is made ready meanwhile.
    template = _template(facts)
    with ThreadPoolExecutor(1) as pool:
        tokenizer = pool.submit(Tokenizer.from_file, folder / packed.TOKENIZER)
        if template:
            pool.submit(template.check)  # a broken one is told when it is used
        native = NativeModel.open(
            folder,
            facts.config,
            num_threads=num_threads,
            kv_dtype=kv_dtype,
            adapters=plan.adapter.loras if plan.adapter else None,
        )
        return _llm(asked, plan, native, tokenizer.result(), template)


def _load_reference(asked: _Asked) -> LLM:
    from qwell.checkpoint import open_checkpoint
    from qwell.model.reference import ReferenceModel
    from qwell.model.weights import build_weights

    checkpoint = open_checkpoint(asked.resolved.paths)
    facts = packed.facts_of(checkpoint)
    base_bytes = 4 * facts.config.num_parameters
    plan = _plan(asked, facts, base_bytes=base_bytes, kv_dtype="float32")
    loras = plan.adapter.loras if plan.adapter else None
    model = ReferenceModel(build_weights(facts.config, checkpoint.tensors, loras))
    return _llm(asked, plan, model, packed.tokenizer_of(checkpoint), _template(facts))


def _llm(
    asked: _Asked,
    plan: _Plan,
    backend: Backend,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
) -> LLM:
    return LLM(
        name=asked.resolved.name,
        backend=backend,
        tokenizer=tokenizer,
        template=template,
        generation=generation_of(asked.resolved, plan.facts.generation),
        adapter_id=plan.adapter.id if plan.adapter else "",
        max_context=plan.ctx,
        num_pages=plan.num_pages,
        max_seqs=asked.room.max_seqs,
    )


def _open_adapter(folder: Path | None, config: ModelConfig) -> Adapter | None:
    if folder is None:
        return None
    from qwell.checkpoint import open_adapter

    return open_adapter(folder, config)


def _template(facts: Facts) -> ChatTemplate | None:
    return ChatTemplate(facts.chat_template) if facts.chat_template else None


def generation_of(resolved: ResolvedModel, found: GenerationConfig) -> GenerationConfig:
    """A GGUF file carries no generation_config.json, so where the catalogue knows the model its
    values count. The end ids of both do."""
    known = resolved.entry.generation if resolved.entry and resolved.kind == "gguf" else None
    if known is None:
        return found
    return replace(known, eos_token_ids=tuple({*known.eos_token_ids, *found.eos_token_ids}))


def _context(name: str, config: ModelConfig, ctx: int | None) -> int:
    limit = config.max_position_embeddings
    if ctx is not None and ctx > limit:
        raise UsageError(f"ctx is {ctx:,}, but {name} was made for at most {limit:,} tokens")
    return min(limit, DEFAULT_CTX) if ctx is None else ctx
