"""The life of a model in one command: tokenizer, pre-training, fine-tuning, evaluation, chat.

    qwell train tour --out runs/tour

Learns from the source code and documentation of this machine and from tasks a program can check
(reasoning-gym). Every part is the ordinary command's; what is here is their order, sizes that fit
the minutes given, and a report of what each stage added, on data none of them has learnt from. A
tour that is broken off goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from qwell.config import ModelConfig
from qwell.data.folder import open_records
from qwell.data.learn_bpe import learn_tokenizer, save_tokenizer
from qwell.data.machine import gather
from qwell.data.survey import survey
from qwell.data.tasks import write_tasks
from qwell.data.texts import text_of
from qwell.errors import DataError
from qwell.text.template import ChatTemplate
from qwell.text.tokenizer import Tokenizer
from qwell.train import pretrain, sft
from qwell.train.compression import bits_per_byte, xz_bits_per_byte
from qwell.train.config import PretrainConfig, SftConfig
from qwell.train.estimate import step_seconds
from qwell.train.files import write_whole
from qwell.train.tour_data import write_questions
from qwell.train.weights import init_decoder, load_decoder

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content "
    "+ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML without the system message of the family: this model is not Qwen."""

TASKS: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
    "letter_counting": {"min_words": 2, "max_words": 4},
    "spell_backward": {"min_word_len": 3, "max_word_len": 5},
    "gcd": {"min_value": 1, "max_value": 60},
    "products": {"min_digits": 1, "max_digits": 2},
}

HEAD = 32
"""Numbers of an attention head."""
CONTEXT = 1024
"""Tokens a model of the tour is asked to look back on; pieces of training text are as long."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TourConfig:
    """Sizes of the tour. The steps of both stages are as many as fit their minutes here, unless
    they are told: then two tours over the same text are alike."""

    out: str = "runs/tour"
    """folder of everything the tour makes"""
    pretrain_minutes: float = 15.0
    """time of pre-training"""
    sft_minutes: float = 4.5
    """time of fine-tuning"""
    pretrain_steps: int = 0
    """steps of pre-training; 0: as many as fit its minutes"""
    sft_steps: int = 0
    """steps of fine-tuning; 0: as many as fit its minutes"""
    corpus_bytes: int = 48_000_000
    """text gathered from this machine"""
    held_out_bytes: int = 300_000
    """of the held-out text, read to measure bits per byte"""
    vocab_size: int = 16_384
    """tokens of the tokenizer. Many, since merges are learnt in two seconds what takes a model
    minutes: over the same 6.4 MB of text 4,096 gave 1.91 bits a byte in 158 s, 8,192 1.85 in 134,
    16,384 1.81 in 139"""
    hidden_size: int = 256
    """of the model; heads are of 32"""
    layers: int = 4
    """of the model"""
    rows_per_task: int = 12_000
    """questions to learn, of each task"""
    tests_per_task: int = 40
    """questions held out, of each task"""
    seed: int = 0
    """of weights, orders and tasks"""
    threads: int = 0
    """0: as many cores as this process may use"""


def tour(config: TourConfig, say: Say) -> Path:
    """Runs what is not done yet; gives the report. Raises what the parts raise."""
    out, started = Path(config.out), perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    facts = Facts(out / "facts.json")
    steps: tuple[tuple[str, Callable[[TourConfig, Path, Facts], None]], ...] = (
        ("gathering text and tasks", _data),
        ("learning a tokenizer", _tokenizer),
        ("pre-training", _pretrain),
        ("measuring compression", _compression),
        ("fine-tuning", _sft),
        ("asking both models", _answers),
        ("serving", _serve),
    )
    for name, step in steps:
        if name in facts.done:
            continue
        say(f"{name} ({(perf_counter() - started) / 60:.1f} min so far)")
        begun = perf_counter()
        step(config, out, facts)
        facts.finish(name, perf_counter() - begun)
    from qwell.train.tour_report import write_report

    return write_report(out, facts.values, facts.done)


class Facts:
    """What the tour has found and finished, kept in a file so that it can go on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        raw = json.loads(path.read_text("utf-8")) if path.exists() else {}
        self.values: dict[str, Any] = raw.get("values", {})
        self.done: dict[str, float] = raw.get("done", {})

    def finish(self, name: str, seconds: float) -> None:
        self.done[name] = seconds
        text = json.dumps({"values": self.values, "done": self.done}, indent=1)
        write_whole(self._path, text.encode())


def _data(config: TourConfig, out: Path, facts: Facts) -> None:
    made = gather(out / "data", max_bytes=config.corpus_bytes, prose_share=0.2)
    tasks = write_tasks(
        out / "data",
        TASKS,
        train=config.rows_per_task,
        test=config.tests_per_task,
        seed=config.seed,
    )
    questions = write_questions(out / "data" / "modules.jsonl")
    facts.values["data"] = {
        "documents": made.documents,
        "bytes": made.bytes,
        "skipped": made.skipped,
        "task_rows": tasks.train_rows,
        "task_tests": tasks.test_rows,
        "questions": questions,
    }


def _tokenizer(config: TourConfig, out: Path, facts: Facts) -> None:
    tokenizer = learn_tokenizer(_some_texts(out), vocab_size=config.vocab_size)
    save_tokenizer(tokenizer, ChatTemplate(TEMPLATE), out / "tokenizer", force=True)
    texts = held_out_texts(out, config.held_out_bytes)
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    facts.values["tokenizer"] = {
        "vocab_size": tokenizer.vocab_size,
        "bytes_per_token": size / tokens,
    }


def _some_texts(out: Path, most: int = 8_000_000) -> Iterator[str]:
    """Text to learn merges from: every n-th document, and every question."""
    records = open_records(out / "data/train.jsonl").records
    taken = 0
    for at in range(len(records)):
        text = text_of(records[at])
        taken += len(text)
        yield text
        if taken > most:
            break
    for name in ("tasks.train.jsonl", "modules.jsonl"):
        rows = open_records(out / "data" / name, texts=False).records
        for at in range(0, len(rows), 4):
            row: Any = rows[at].value
            yield "\n".join(message["content"] for message in row["messages"])


def model_config(config: TourConfig) -> ModelConfig:
    """The shape of the model: the family's, small. Heads of 32, for of 64 there would be four."""
    heads = config.hidden_size // HEAD
    return ModelConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=round(config.hidden_size * 8 / 3 / 64) * 64,
        num_hidden_layers=config.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2 if heads % 2 == 0 else 1,
        head_dim=HEAD,
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
    )


def pretrain_config(config: TourConfig, out: Path, steps: int) -> PretrainConfig:
    """The recipe of so small a model. Far below the batch from which larger steps pay, so steps are
    as small as the kernels like: two pieces of text. The rate is the best of three tried over 1,000
    steps (4e-3: 2.07 bits a byte, 2e-3: 1.93, 1.2e-3: 1.91); it falls to nothing, since no stage of
    the same text follows. With small steps the second moment remembers longer (0.98)."""
    return PretrainConfig(
        model=str(out / "config.json"),
        tokenizer=str(out / "tokenizer"),
        data=(str(out / "data/train.jsonl"),),
        valid=(str(out / "data/valid.jsonl"),),
        out=str(out / "pretrain"),
        context=2 * CONTEXT,
        micro_batches=1,
        steps=steps,
        lr=1.2e-3,
        lr_final=1.2e-5,
        schedule="linear",
        warmup_steps=max(1, min(200, steps // 20)),
        beta2=0.98,
        init_std=config.hidden_size**-0.5,
        optimizer="master",
        eval_every=max(1, steps // 16),
        save_every=max(1, steps // 8),
        seed=config.seed,
        threads=config.threads,
    )


def _pretrain(config: TourConfig, out: Path, facts: Facts) -> None:
    shape = model_config(config)
    raw = {"architectures": ["Qwen2ForCausalLM"], **shape.to_dict()}
    write_whole(out / "config.json", json.dumps(raw, indent=1).encode())
    texts = held_out_texts(out, 120_000)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    write_whole(out / "data/valid.jsonl", lines.encode())
    first = pretrain_config(config, out, 1)
    steps = config.pretrain_steps or _steps(first, shape, config.pretrain_minutes, 1.0)
    result = pretrain.main(pretrain_config(config, out, steps))
    _need_done(result.is_done)
    facts.values["pretrain"] = {
        "parameters": shape.num_parameters,
        "steps": steps,
        "tokens": steps * first.tokens_per_step,
        "evals": dict(result.evals),
    }


def _steps(
    config: PretrainConfig | SftConfig,
    shape: ModelConfig,
    minutes: float,
    share: float,
) -> int:
    """Steps that fit, measured here; of a run that was begun, those it was begun with."""
    begun = Path(config.out) / "config.json"
    if begun.exists():
        return int(json.loads(begun.read_text("utf-8"))["steps"])
    return max(4, int(60 * minutes / step_seconds(config, shape, share)))


def _compression(config: TourConfig, out: Path, facts: Facts) -> None:
    texts = held_out_texts(out, config.held_out_bytes)
    learnt = load_decoder(str(out / "pretrain/model")).decoder
    shape = model_config(config)
    std = pretrain_config(config, out, 1).init_std
    fresh = init_decoder(shape, seed=config.seed, dtype=_dtype_of(learnt), std=std)
    tokenizer = Tokenizer.from_folder(out / "tokenizer")
    facts.values["compression"] = {
        "bytes": sum(len(text.encode()) for text in texts),
        "documents": len(texts),
        "context": CONTEXT,
        "fresh": bits_per_byte(fresh, tokenizer, texts[:4], context=CONTEXT),
        "model": bits_per_byte(learnt, tokenizer, texts, context=CONTEXT),
        "xz": xz_bits_per_byte(texts),
        "xz_extreme": xz_bits_per_byte(texts, extreme=True),
    }


def _dtype_of(decoder: Any) -> Any:
    return decoder.model.norm.weight.dtype


def sft_config(config: TourConfig, out: Path, steps: int) -> SftConfig:
    return SftConfig(
        model=str(out / "pretrain/model"),
        data=(str(out / "data/tasks.train.jsonl"), str(out / "data/modules.jsonl")),
        weights=(0.85, 0.15),
        valid=(str(out / "data/tasks.test.jsonl"),),
        out=str(out / "sft"),
        context=CONTEXT,
        micro_batches=2,
        steps=steps,
        lr=1e-3,
        lr_final=1e-5,
        schedule="linear",
        warmup_steps=max(1, min(30, steps // 20)),
        weight_decay=0.01,
        eval_every=max(1, steps // 8),
        save_every=max(1, steps // 4),
        seed=config.seed,
        threads=config.threads,
    )


def _sft(config: TourConfig, out: Path, facts: Facts) -> None:
    first = sft_config(config, out, 1)
    loaded = load_decoder(first.model)
    assert loaded.chat_template is not None
    rows = sft.rows_of(first, first.data, loaded.tokenizer, ChatTemplate(loaded.chat_template))
    counted = survey(rows, 500)
    share = counted.targets / counted.tokens
    steps = config.sft_steps or _steps(first, model_config(config), config.sft_minutes, share)
    result = sft.main(sft_config(config, out, steps))
    _need_done(result.is_done)
    facts.values["sft"] = {"steps": steps, "evals": dict(result.evals), "target_share": share}


def _answers(config: TourConfig, out: Path, facts: Facts) -> None:  # noqa: ARG001
    from qwell.train.score import accuracy, chat_samples

    tests = out / "data/tasks.test.jsonl"
    for name in ("pretrain", "sft"):
        facts.values[f"accuracy {name}"] = accuracy(str(out / name / "model"), tests)
    questions = ["What is the Python module json for?", "State the final answer: 12 + 7 ="]
    facts.values["samples"] = chat_samples(str(out / "sft/model"), tests, questions)


def _serve(config: TourConfig, out: Path, facts: Facts) -> None:  # noqa: ARG001
    from qwell.train.score import ask_served

    question = "What is the Python module json for?"
    facts.values["served"] = ask_served(str(out / "sft/model"), question)


def _need_done(is_done: bool) -> None:
    """A signal ended a stage: the tour ends too, saved."""
    if not is_done:
        raise KeyboardInterrupt


def held_out_texts(out: Path, most: int) -> list[str]:
    """Whole documents of the test split, in its order, of about `most` bytes."""
    records = open_records(out / "data/test.jsonl").records
    found: list[str] = []
    size = 0
    for at in range(len(records)):
        text = text_of(records[at])
        if size + len(text.encode()) <= most or not found:
            found.append(text)
            size += len(text.encode())
    if not found:
        raise DataError("no document was held out: gather more, with a larger --corpus-bytes")
    return found
