"""transformers' own Qwen2 in float32, as an oracle: the same numbers through foreign code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwell.config import ModelConfig

F32 = NDArray[np.float32]


def oracle(config: ModelConfig, tensors: Iterable[tuple[str, F32]]) -> Any:
    """Qwen2ForCausalLM with eager attention. `tensors` are (Hugging Face name, values)."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    foreign = Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_word_embeddings,
        attn_implementation="eager",
    )
    state = {name: torch.from_numpy(np.array(values, np.float32)) for name, values in tensors}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = Qwen2ForCausalLM(foreign).eval()
    model.load_state_dict(state, strict=True)
    return model


def oracle_logits(model: Any, ids: Sequence[int]) -> F32:
    """[len(ids), vocab_size] float32."""
    import torch

    with torch.no_grad():
        out = model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    logits: F32 = out.logits[0].numpy()
    return logits
