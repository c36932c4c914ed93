"""Makes qwen05.npz: the official 0.5B through transformers in float32, as others compute it.

    PYTHONPATH=src:. python tests/golden/make_qwen05.py FILE.gguf

Nothing of ours is in the numbers: the `gguf` package dequantises, transformers computes. Kept are
the ids and, for every position, the logits of 64 ids spread over the vocabulary, the five best ids
with their logits, and the logsumexp. It prints the reference's largest error over all logits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from qwell.checkpoint import open_checkpoint
from qwell.model.batch import Batch
from qwell.model.reference import ReferenceModel
from qwell.model.weights import build_weights
from qwell.text.tokenizer import Tokenizer
from tests.parity.hf import oracle, oracle_logits

POSITIONS = 256
GOLDEN = Path(__file__).with_name("qwen05.npz")
TEXT = """# The ferry

The last ferry of the day left at ten past six, and Marta was on it, as she had been every
evening since the spring. She counted the gulls on the rail: seven. Yesterday there had been nine.
"Two of them took the early boat," said the ticket collector, who never asked to see her ticket.

Der Nebel kam so schnell, dass niemand das andere Ufer mehr sehen konnte. «Nous arriverons quand
nous arriverons», dit le capitaine. 船は静かに進んだ。 Потом стало совсем тихо. 🙂

```python
def crossing(distance_km: float, speed_kmh: float = 18.5) -> str:
    minutes = round(60 * distance_km / speed_kmh)
    return f"{minutes // 60}:{minutes % 60:02d}"


assert crossing(37) == "2:00"
```

| harbour | depth (m) | berths |
|---|---:|---:|
| North Quay | 7.25 | 12 |
| Saltmarsh | 3.1 | 4 |

1. Check the lines. 2. Sound the horn twice. 3. Wait. The rule was older than the harbour master,
and he was eighty-one; he had learned it from his grandmother, who could tell the tide from the
smell of the kelp and had never once been wrong, except in the winter of 1931.
"""
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def foreign_tensors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor under its Hugging Face name, dequantised by the gguf package."""
    for tensor in gguf.GGUFReader(path).tensors:
        *block, stem, kind = tensor.name.split(".")  # blk.3.attn_q.weight or output.weight
        layer = f"model.layers.{block[1]}." if block else ""
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        yield f"{layer}{NAMES[stem]}.{kind}", values


def main(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    ids = Tokenizer.from_gguf(checkpoint.metadata).encode(TEXT)[:POSITIONS]
    assert len(ids) == POSITIONS
    logits = oracle_logits(oracle(checkpoint.config, foreign_tensors(path)), ids)
    sample = np.linspace(0, checkpoint.config.vocab_size - 1, 64).astype(np.int32)
    best = np.argsort(-logits, axis=-1, kind="stable")[:, :5].astype(np.int32)
    top = logits.max(axis=-1, keepdims=True).astype(np.float64)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=-1))
    np.savez_compressed(
        GOLDEN,
        ids=np.asarray(ids, np.int32),
        sample=sample,
        sample_logits=logits[:, sample],
        best=best,
        best_logits=np.take_along_axis(logits, best, axis=-1),
        logsumexp=total.astype(np.float32),
    )
    ours = ReferenceModel(build_weights(checkpoint.config, checkpoint.tensors))
    error = np.abs(ours.step(Batch.make([ids], logits="all")) - logits)
    print(
        f"{GOLDEN.name}: {GOLDEN.stat().st_size:,} bytes; logits up to {np.abs(logits).max():.1f}"
    )
    print(f"the reference over all {error.size:,} logits: largest error {error.max():.2e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
