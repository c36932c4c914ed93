"""The reference is Qwen2: equal to transformers' implementation in float32 on random models."""

from __future__ import annotations

import numpy as np
import pytest

from qwell.config import ModelConfig
from qwell.model.batch import Batch
from qwell.model.reference import ReferenceModel
from qwell.model.weights import build_weights
from tests.model.tiny import make_config, random_ids, random_tensors
from tests.parity.hf import oracle, oracle_logits

MAX_ERROR = 1e-4
LENGTHS = [70, 1, 33]


def shape(heads: int, kv_heads: int, head_dim: int, **other: object) -> ModelConfig:
    return make_config(
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=heads * head_dim,
        intermediate_size=3 * heads * head_dim + 8,
        vocab_size=331,
        **other,
    )


CONFIGS = [
    # 1 .. 8 query heads per kv head, both head sizes, tied and untied, both bases of RoPE
    shape(2, 2, 64, tie_word_embeddings=True, rope_theta=1e6),
    shape(2, 1, 64, tie_word_embeddings=False, rope_theta=1e4),
    shape(3, 1, 64, tie_word_embeddings=True, rope_theta=1e4),
    shape(8, 2, 64, tie_word_embeddings=False, rope_theta=1e6),
    shape(5, 1, 64, tie_word_embeddings=True, rope_theta=1e6, rms_norm_eps=1e-5),
    shape(12, 2, 64, tie_word_embeddings=False, rope_theta=1e6),
    shape(14, 2, 64, tie_word_embeddings=True, rope_theta=1e6),  # the heads of the 0.5B
    shape(8, 1, 64, tie_word_embeddings=False, rope_theta=1e4),
    shape(1, 1, 128, tie_word_embeddings=False, rope_theta=1e6, rms_norm_eps=1e-2),
    shape(4, 2, 128, tie_word_embeddings=True, rope_theta=1e4),
    shape(6, 2, 128, tie_word_embeddings=False, rope_theta=1e4, rms_norm_eps=1e-5),
    shape(4, 1, 128, tie_word_embeddings=True, rope_theta=1e6),
    shape(5, 1, 128, tie_word_embeddings=False, rope_theta=1e6),
    shape(12, 2, 128, tie_word_embeddings=True, rope_theta=1e6),  # the heads of the 1.5B
    shape(7, 1, 128, tie_word_embeddings=False, rope_theta=1e4),
    shape(8, 1, 128, tie_word_embeddings=True, rope_theta=1e6),
    # a head size that is not hidden_size / heads, and more layers
    make_config(head_dim=64, vocab_size=331),
    shape(4, 2, 64, num_hidden_layers=6, tie_word_embeddings=False),
]


def name(c: ModelConfig) -> str:
    tied = "tied" if c.tie_word_embeddings else "untied"
    heads = f"{c.num_heads}q{c.num_kv_heads}kv-h{c.head_dim}-d{c.hidden_size}-l{c.num_layers}"
    return f"{heads}-{tied}-theta{c.rope_theta:g}-eps{c.rms_norm_eps:g}"


@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_reference_equals_transformers(config: ModelConfig) -> None:
    tensors = random_tensors(config, seed=CONFIGS.index(config))
    theirs = oracle(config, ((key, t.array) for key, t in tensors.items()))
    ours = ReferenceModel(build_weights(config, tensors))
    ids = [random_ids(config, n, seed=n) for n in LENGTHS]
    batch = Batch.make(ids, logits="all")
    logits = ours.step(batch)  # all sequences in one batch, theirs one by one
    for own, (lo, hi) in zip(ids, batch.spans()):
        expected = oracle_logits(theirs, own)
        assert 0.5 < np.abs(expected).max() < 30
        assert np.abs(logits[lo:hi] - expected).max() <= MAX_ERROR
