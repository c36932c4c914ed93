"""Makes greedy_qwen05.json: what the float reference of the official 0.5B answers, greedily.

    PYTHONPATH=src:. python tests/golden/make_greedy.py FILE.gguf

For each of prompts.json: the ids of the templated chat, up to 32 tokens (an end token ends the
reply and is kept), and for every token the runner-up and how many logits it was behind.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from qwell.checkpoint import open_checkpoint
from qwell.model.reference import ReferenceModel
from qwell.model.weights import build_weights
from qwell.text.chat import encode_chat
from qwell.text.template import ChatTemplate
from qwell.text.tokenizer import Tokenizer
from tests.parity.greedy import greedy

TOKENS = 32
GOLDEN = Path(__file__).with_name("greedy_qwen05.json")
PROMPTS = Path(__file__).with_name("prompts.json")


def main(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    tokenizer = Tokenizer.from_gguf(checkpoint.metadata)
    template = ChatTemplate(str(checkpoint.metadata["tokenizer.chat_template"]))
    texts = json.loads(PROMPTS.read_text(encoding="utf-8"))
    prompts = [
        encode_chat(tokenizer, template, [{"role": "user", "content": text}]) for text in texts
    ]
    model = ReferenceModel(build_weights(checkpoint.config, checkpoint.tensors))
    eos = checkpoint.generation.eos_token_ids
    replies = greedy(model, prompts, TOKENS, eos)
    cases = []
    for text, prompt, reply in zip(texts, prompts, replies, strict=True):
        reply.margins = [round(margin, 4) for margin in reply.margins]
        cases.append({"text": text, "prompt": prompt, **asdict(reply)})
        print(f"{text}\n    {tokenizer.decode(reply.tokens)!r}")
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    GOLDEN.write_text(f'{{"eos": {list(eos)}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")
    close = sum(min(reply.margins) <= 0.1 for reply in replies)
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size:,} bytes; {close} replies with a margin <= 0.1")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
