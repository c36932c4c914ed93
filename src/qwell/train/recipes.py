"""Recipes: functions that make the config of a run. No torch here.

`published` tells which values the Qwen2.5 technical report gives (TR, arXiv:2412.15115), or the
reports of its Math and Coder families; all others are chosen here and `--dry-run` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache

from qwell.errors import UsageError
from qwell.train.config import PretrainConfig, SftConfig, Stage


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A config and where its numbers come from: `published` maps a field to its source."""

    name: str
    config: PretrainConfig | SftConfig
    published: Mapping[str, str]

    @property
    def stage(self) -> Stage:
        return "pretrain" if isinstance(self.config, PretrainConfig) else "sft"


@dataclass(frozen=True, kw_only=True)
class Size:
    """One size of the family (TR, table 1): enough to build new weights and to reckon cost."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    tie_word_embeddings: bool
    vocab_size: int

    @property
    def matrix_parameters(self) -> int:
        """Without embedding and head, which scaling laws leave out."""
        head_dim = self.hidden_size // self.num_attention_heads
        kv = self.num_key_value_heads * head_dim
        attention = 2 * self.hidden_size * (self.hidden_size + kv)
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)


def _size(hidden: int, ffn: int, layers: int, heads: int, kv: int, tied: bool, vocab: int) -> Size:
    return Size(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        tie_word_embeddings=tied,
        vocab_size=vocab,
    )


SIZES = {
    "0.5b": _size(896, 4864, 24, 14, 2, True, 151_936),
    "1.5b": _size(1536, 8960, 28, 12, 2, True, 151_936),
    "3b": _size(2048, 11008, 36, 16, 2, True, 151_936),
    "7b": _size(3584, 18944, 28, 28, 4, False, 152_064),
    "14b": _size(5120, 13824, 48, 40, 8, False, 152_064),
    "32b": _size(5120, 27648, 64, 40, 8, False, 152_064),
    "72b": _size(8192, 29568, 80, 64, 8, False, 152_064),
}
TOKENS_18T = 18_000_000_000_000


def pretrain(size: str) -> Recipe:
    """First stage: 4,096 tokens, theta 10,000, 18T tokens (TR 3.1 to 3.3).

    The report says learning rate and batch follow scaling laws but not which; here they follow
    DeepSeek's (arXiv:2401.02954, equation 1): lr = 0.3118 C^-0.1250, batch = 0.2920 C^0.3271
    tokens, C the compute in FLOPs.
    """
    compute = 6.0 * SIZES[size].matrix_parameters * TOKENS_18T
    lr, batch = 0.3118 * compute**-0.1250, 0.2920 * compute**0.3271
    micro_batches = max(1, round(batch / 4096))
    config = PretrainConfig(
        model=size,
        context=4096,
        micro_batches=micro_batches,
        steps=TOKENS_18T // (4096 * micro_batches),
        lr=float(f"{lr:.2g}"),
        lr_final=float(f"{lr / 10:.2g}"),
        warmup_steps=2000,
        rope_theta=10_000.0,
        out=f"runs/pretrain-{size}",
    )
    published = {"context": "TR 3.3", "rope_theta": "TR 3.3", "steps": "TR 3.1, 18T tokens"}
    return Recipe(name=f"pretrain-{size}", config=config, published=published)


def pretrain_long(size: str) -> Recipe:
    """Second stage: 32,768 tokens, theta 1,000,000 by ABF (TR 3.3); its length is not given."""
    first = pretrain(size).config
    assert isinstance(first, PretrainConfig)
    micro_batches = max(1, first.micro_batches * 4096 // 32_768)
    config = replace(
        first,
        model=f"runs/pretrain-{size}/model",
        context=32_768,
        micro_batches=micro_batches,
        steps=300_000_000_000 // (32_768 * micro_batches),
        lr=first.lr_final,
        lr_final=first.lr_final / 10,
        warmup_steps=200,
        rope_theta=1_000_000.0,
        recompute=True,
        out=f"runs/pretrain-long-{size}",
    )
    published = {"context": "TR 3.3", "rope_theta": "TR 3.3"}
    return Recipe(name=f"pretrain-long-{size}", config=config, published=published)


def sft(size: str) -> Recipe:
    """Two epochs at 32,768 tokens, 7e-6 to 7e-7, decay 0.1, clipping 1.0 (TR 4.1). Batch, warmup
    and shape of the schedule are not given."""
    config = SftConfig(
        model=f"runs/pretrain-long-{size}/model",
        context=32_768,
        micro_batches=4,
        epochs=2.0,
        lr=7e-6,
        lr_final=7e-7,
        weight_decay=0.1,
        clip_norm=1.0,
        recompute=True,
        out=f"runs/sft-{size}",
    )
    given = ("context", "epochs", "lr", "lr_final", "weight_decay", "clip_norm")
    return Recipe(name=f"sft-{size}", config=config, published=dict.fromkeys(given, "TR 4.1"))


def sft_math(size: str) -> Recipe:
    """Qwen2.5-Math: three epochs at 4,096 tokens; 72B batch 256 and 5e-6, else 128 and 2e-5;
    down to 7e-7 (arXiv:2409.12122, section 3.1)."""
    lr, batch = (5e-6, 256) if size == "72b" else (2e-5, 128)
    config = SftConfig(
        model=f"qwen2.5-math:{size}",
        context=4096,
        micro_batches=batch,
        epochs=3.0,
        lr=lr,
        lr_final=7e-7,
        out=f"runs/sft-math-{size}",
    )
    given = ("context", "micro_batches", "epochs", "lr", "lr_final")
    return Recipe(
        name=f"sft-math-{size}",
        config=config,
        published=dict.fromkeys(given, "Qwen2.5-Math report 3.1"),
    )


def coder_file(size: str) -> Recipe:
    """Qwen2.5-Coder, file level: 8,192 tokens, 5.2T of them, next token and fill-in-the-middle
    (arXiv:2409.12186, section 3.2). The share of FIM and the rates are not given."""
    micro_batches = max(1, pretrain(size).config.micro_batches // 2)
    config = PretrainConfig(
        model=f"qwen2.5:{size}",
        context=8192,
        micro_batches=micro_batches,
        steps=5_200_000_000_000 // (8192 * micro_batches),
        lr=pretrain(size).config.lr_final * 3,
        lr_final=pretrain(size).config.lr_final,
        warmup_steps=500,
        rope_theta=10_000.0,
        fim_rate=0.5,
        out=f"runs/coder-file-{size}",
    )
    given = dict.fromkeys(("context", "steps", "rope_theta"), "Qwen2.5-Coder report 3.2")
    return Recipe(name=f"coder-file-{size}", config=config, published=given)


def coder_repo(size: str) -> Recipe:
    """Qwen2.5-Coder, repository level: 32,768 tokens, 300B of them, theta 1,000,000."""
    first = coder_file(size).config
    assert isinstance(first, PretrainConfig)
    micro_batches = max(1, first.micro_batches // 4)
    config = replace(
        first,
        model=f"runs/coder-file-{size}/model",
        context=32_768,
        micro_batches=micro_batches,
        steps=300_000_000_000 // (32_768 * micro_batches),
        lr=first.lr_final,
        lr_final=first.lr_final / 10,
        rope_theta=1_000_000.0,
        recompute=True,
        out=f"runs/coder-repo-{size}",
    )
    given = dict.fromkeys(("context", "steps", "rope_theta"), "Qwen2.5-Coder report 3.2")
    return Recipe(name=f"coder-repo-{size}", config=config, published=given)


def lora(size: str) -> Recipe:
    """LoRA on an instruction model, sized for a laptop. The reports give nothing of the kind."""
    config = SftConfig(
        model=f"qwen2.5:{size}-instruct",
        context=1024,
        micro_batches=4,
        epochs=2.0,
        lr=2e-4,
        lr_final=2e-5,
        warmup_steps=10,
        weight_decay=0.0,
        lora_rank=16,
        out=f"runs/lora-{size}",
    )
    return Recipe(name=f"lora-{size}", config=config, published={})


_FAMILIES: dict[str, Callable[[str], Recipe]] = {
    "pretrain": pretrain,
    "pretrain-long": pretrain_long,
    "sft": sft,
    "sft-math": sft_math,
    "coder-file": coder_file,
    "coder-repo": coder_repo,
    "lora": lora,
}
_MATH_SIZES = ("1.5b", "7b", "72b")


def _plain_pretrain() -> Recipe:
    return Recipe(name="pretrain", config=PretrainConfig(out="runs/pretrain"), published={})


def _plain_sft() -> Recipe:
    config = SftConfig(context=1024, lr=2e-5, lr_final=2e-6, warmup_steps=10, out="runs/sft")
    return Recipe(name="sft", config=config, published={})


def names(stage: Stage) -> list[str]:
    """Every recipe of a stage."""
    return [name for name in _all() if find(name).stage == stage]


def find(name: str) -> Recipe:
    """The recipe of that name. Raises UsageError with those that are near it."""
    if name in _all():
        return _all()[name]()
    near = get_close_matches(name, _all())
    hint = f"did you mean {' or '.join(near)}?" if near else "--recipe list lists them"
    raise UsageError(f"there is no recipe {name!r}: {hint}")


@cache
def _all() -> dict[str, Callable[[], Recipe]]:
    found: dict[str, Callable[[], Recipe]] = {"pretrain": _plain_pretrain, "sft": _plain_sft}
    for family, make in _FAMILIES.items():
        for size in _MATH_SIZES if family == "sft-math" else SIZES:
            found[f"{family}-{size}"] = lambda make=make, size=size: make(size)  # type: ignore[misc]
    return found
