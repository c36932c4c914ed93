"""What a run is: one frozen dataclass a stage. No torch here.

Every field becomes a flag of `qwell train` (`--micro-batches 8`), the line under it the help; the
whole is written as JSON into the run's folder. Recipes (recipes.py) are functions that make one.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal, get_args, get_origin, get_type_hints

from qwell.errors import UsageError
from qwell.native.cpu import check_threads

Stage = Literal["pretrain", "sft"]
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices of a layer that can get an adapter."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every stage needs. Impossible values raise UsageError."""

    model: str = ""
    """where the weights come from: alias, folder or .gguf; of pretrain also a size such as 0.5b or
    a config.json, for new weights"""
    data: tuple[str, ...] = ()
    """files or folders to learn from; repeatable"""
    valid: tuple[str, ...] = ()
    """files or folders held out, measured every eval_every steps; repeatable"""
    weights: tuple[float, ...] = ()
    """share of tokens each of the data gets; without it every document comes once an epoch"""
    out: str = "runs/train"
    """folder of the run: checkpoints, logs, plots, and the model when it is done"""

    context: int = 4096
    """tokens of one micro-batch, hence of the longest document"""
    micro_batches: int = 8
    """micro-batches of one optimizer step, over all processes"""
    steps: int = 0
    """optimizer steps; 0: as many as epochs says"""
    epochs: float = 1.0
    """times the data is read, when steps is 0"""

    lr: float = 1e-4
    """peak learning rate, reached after warmup_steps"""
    lr_final: float = 1e-5
    """learning rate of the last step"""
    schedule: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """how the rate falls from lr to lr_final; wsd: stable, then down over the last decay_share"""
    warmup_steps: int = 100
    """steps over which the rate rises from 0"""
    decay_share: float = 0.2
    """of wsd: share of the steps in which the rate falls"""
    weight_decay: float = 0.1
    """decoupled, on matrices alone"""
    beta1: float = 0.9
    """of AdamW"""
    beta2: float = 0.95
    """of AdamW"""
    eps: float = 1e-8
    """of AdamW"""
    clip_norm: float = 1.0
    """largest norm of the gradient; 0 clips nothing"""

    dtype: Literal["bf16", "float32"] = "bf16"
    """of weights and activations"""
    optimizer: Literal["master", "stochastic", "8bit", "8bit-stochastic"] = "master"
    """AdamW with float32 master weights or stochastic rounding of bf16; 8bit: of its moments"""
    recompute: bool = False
    """keep the inputs of layers alone and compute the rest twice: less memory, a third more time"""

    lora_rank: int = 0
    """rank of LoRA adapters; 0 trains every weight"""
    lora_alpha: float = 0.0
    """scale of the adapters; 0: twice the rank"""
    lora_targets: tuple[str, ...] = TARGETS
    """matrices of each layer that get an adapter; repeatable"""
    lora_embeddings: bool = False
    """train embedding and head as well, whole"""
    qlora: Literal["", "file", "int8", "int4"] = ""
    """of LoRA: hold frozen matrices as small integers, those of the GGUF file itself or rounded"""

    seed: int = 0
    """of the order of the data, of new weights and of dropout"""
    eval_every: int = 100
    """steps between two measurements on valid; 0: at the end alone"""
    save_every: int = 100
    """steps between two checkpoints; 0: at the end alone"""
    keep_last: int = 2
    """newest checkpoints that are kept"""
    keep_best: int = 1
    """checkpoints of the least validation loss that are kept as well"""
    spike_sigma: float = 8.0
    """a step whose loss is so many deviations above the last 64 is skipped; 0: none is"""
    max_skips: int = 5
    """steps skipped in a row before the run gives up"""
    tensorboard: bool = False
    """write TensorBoard events to OUT/tensorboard"""
    threads: int = 0
    """threads of this process; 0: as many cores as it may use"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            self._need(name, not isinstance(value, float) or isfinite(value), "a finite number")
        for name in ("context", "micro_batches", "max_skips", "keep_last"):
            self._need(name, getattr(self, name) >= 1, "at least 1")
        for name in _NOT_NEGATIVE:
            self._need(name, getattr(self, name) >= 0, "at least 0")
        if self.threads:
            check_threads(self.threads, "threads")
        self._need("context", self.context >= 2, "at least 2: a token and the one before it")
        for name in ("beta1", "beta2"):
            self._need(name, 0 <= getattr(self, name) < 1, "from 0 to less than 1")
        self._need("decay_share", 0 < self.decay_share <= 1, "above 0 and at most 1")
        self._need("lr", self.lr > 0, "above 0: nothing would be learnt")
        self._need("eps", self.eps > 0, "above 0")
        self._need("seed", abs(self.seed) < 2**63, "a number of 64 bits")
        self._need("lr_final", self.lr_final <= self.lr, f"at most lr, which is {self.lr:g}")
        self._need("steps", self.steps > 0 or self.epochs > 0, "above 0 unless epochs is")
        for name, allowed in choices(type(self)).items():
            value = getattr(self, name)
            self._need(name, value in allowed, f"one of {', '.join(allowed)}")
        targets = self.lora_targets
        is_known = bool(targets) and set(targets) <= set(TARGETS)
        self._need("lora_targets", is_known, f"some of {', '.join(TARGETS)}")
        self._need("lora_targets", len(set(targets)) == len(targets), "each of them once")
        if self.weights and len(self.weights) != len(self.data):
            raise UsageError(
                f"{len(self.weights)} weights for {len(self.data)} data: give one for each"
            )
        for name in ("qlora", "lora_embeddings"):
            if getattr(self, name) and not self.lora_rank:
                raise UsageError(f"{name} is for LoRA: give --lora-rank too")

    def _need(self, name: str, met: bool, what: str) -> None:
        if not met:
            raise UsageError(f"{name} is {getattr(self, name)!r}; it must be {what}")

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step at most: packing leaves a few places empty."""
        return self.context * self.micro_batches

    @property
    def alpha(self) -> float:
        """The scale of LoRA in force."""
        return self.lora_alpha or 2.0 * self.lora_rank

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; `from_dict` reads it back."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Next-token prediction on raw text and code."""

    rope_theta: float = 0.0
    """base of the rotary angles; 0: that of the model"""
    init_std: float = 0.02
    """spread of new matrices that read the residual stream; small models want 1 / sqrt(hidden)"""
    fim_rate: float = 0.0
    """share of documents shown as fill-in-the-middle"""
    tokenizer: str = ""
    """folder or model whose tokenizer reads the text; needed when weights are new"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._need("rope_theta", self.rope_theta >= 0, "at least 0")
        self._need("init_std", self.init_std >= 0, "at least 0")
        self._need("fim_rate", 0 <= self.fim_rate <= 1, "a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class SftConfig(TrainConfig):
    """Supervised fine-tuning: conversations, rendered by the model's own chat template."""

    learn: Literal["all", "last"] = "all"
    """learn every assistant turn, or the last alone"""
    overlong: Literal["refuse", "drop"] = "refuse"
    """conversations longer than context: refuse to start, or leave them out and count them"""
    format: Literal["", "messages", "sharegpt", "alpaca"] = ""
    """of the data; without it told apart by its keys"""
    template: str = ""
    """Jinja file instead of the model's own chat template"""


def helps(config: type[Any]) -> dict[str, str]:
    """The docstring line of every field, which is the help of its flag."""
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if base in (object,) or not base.__module__.startswith("qwell."):
            continue
        body = ast.parse(inspect.getsource(base)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:]):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = ast.literal_eval(text.value)
    return found


def choices(config: type[Any]) -> dict[str, tuple[str, ...]]:
    """The allowed values of fields that are a Literal."""
    hints = get_type_hints(config)
    return {k: get_args(hint) for k, hint in hints.items() if get_origin(hint) is Literal}


_NOT_NEGATIVE = (
    "steps",
    "epochs",
    "lr_final",
    "warmup_steps",
    "weight_decay",
    "clip_norm",
    "lora_rank",
    "lora_alpha",
    "eval_every",
    "save_every",
    "keep_best",
    "spike_sigma",
)
