"""A name becomes a loaded model: files, packed cache (packed.py), memory check, LLM."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
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
    if int8 and backend == "reference":
        raise UsageError("int8 is for the native back end only")
    if num_threads is not None and backend == "reference":
        raise UsageError("num_threads is for the native back end only")
    if kv_dtype is not None and backend == "reference":
        raise UsageError("kv_dtype is for the native back end only")
    resolved = resolve(model)
    opened = None if adapter is None else Path(adapter).expanduser()
    if backend == "native":
        llm = _load_native(
            resolved,
            ctx,
            adapter=opened,
            num_threads=num_threads,
            int8=int8,
            kv_dtype=kv_dtype or "bf16",
            room=room or Room(),
            progress=progress,
        )
    else:
        llm = _load_reference(resolved, ctx, opened, room or Room())
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


def _load_native(
    resolved: ResolvedModel,
    ctx: int | None,
    *,
    adapter: Path | None,
    num_threads: int | None,
    int8: bool,
    kv_dtype: str,
    room: Room,
    progress: Progress | None,
) -> LLM:
    from qwell.native import KV_DTYPES, NativeModel, check_threads

    if kv_dtype not in KV_DTYPES:
        raise UsageError(f"kv_dtype {kv_dtype!r} is unknown; it is 'bf16' or 'int8'")
    if num_threads is not None:
        check_threads(num_threads, "num_threads")
    folder = packed.packed_folder(resolved, int8=int8)
    facts = packed.read_facts(folder)
    facts = facts or packed.pack(resolved, folder, int8=int8, progress=progress)
    ctx = _context(resolved.name, facts.config, ctx)
    lora = _open_adapter(adapter, facts.config)
    weight_bytes = (folder / packed.WEIGHTS).stat().st_size + (lora.nbytes if lora else 0)
    num_pages = plan_pages(
        resolved.name,
        facts.config,
        weight_bytes=weight_bytes,
        ctx=ctx,
        kv_dtype=kv_dtype,
        room=room,
    )
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
            adapters=lora.loras if lora else None,
        )
        built = tokenizer.result()
    llm = partial(_llm, resolved, native, tokenizer=built, template=template, facts=facts)
    llm = partial(llm, adapter=lora)
    return llm(ctx=ctx, num_pages=num_pages, max_seqs=room.max_seqs)


def _open_adapter(folder: Path | None, config: ModelConfig) -> Adapter | None:
    if folder is None:
        return None
    from qwell.checkpoint import open_adapter

    return open_adapter(folder, config)


def _load_reference(
    resolved: ResolvedModel, ctx: int | None, adapter: Path | None, room: Room
) -> LLM:
    from qwell.checkpoint import open_checkpoint
    from qwell.model.reference import ReferenceModel
    from qwell.model.weights import build_weights

    checkpoint = open_checkpoint(resolved.paths)
    facts = packed.facts_of(checkpoint)
    ctx = _context(resolved.name, facts.config, ctx)
    lora = _open_adapter(adapter, facts.config)
    weight_bytes = 4 * facts.config.num_parameters + (lora.nbytes if lora else 0)
    num_pages = plan_pages(
        resolved.name,
        facts.config,
        weight_bytes=weight_bytes,
        ctx=ctx,
        kv_dtype="float32",
        room=room,
    )
    loras = lora.loras if lora else None
    model = ReferenceModel(build_weights(facts.config, checkpoint.tensors, loras))
    tokenizer, template = packed.tokenizer_of(checkpoint), _template(facts)
    llm = partial(_llm, resolved, model, tokenizer=tokenizer, template=template, facts=facts)
    llm = partial(llm, adapter=lora)
    return llm(ctx=ctx, num_pages=num_pages, max_seqs=room.max_seqs)


def _template(facts: Facts) -> ChatTemplate | None:
    return ChatTemplate(facts.chat_template) if facts.chat_template else None


def _llm(
    resolved: ResolvedModel,
    backend: Backend,
    *,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    facts: Facts,
    adapter: Adapter | None,
    ctx: int,
    num_pages: int,
    max_seqs: int,
) -> LLM:
    return LLM(
        name=resolved.name,
        backend=backend,
        tokenizer=tokenizer,
        template=template,
        generation=generation_of(resolved, facts.generation),
        adapter_id=adapter.id if adapter else "",
        max_context=ctx,
        num_pages=num_pages,
        max_seqs=max_seqs,
    )


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
