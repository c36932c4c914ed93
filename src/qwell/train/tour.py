"""The life of a model in one command: tokenizer, pre-training, fine-tuning, evaluation, chat.

    qwell train tour --out runs/tour

Learns from the source code and documentation of this machine and from tasks a program can check
(reasoning-gym). Every part is the ordinary command's; what is here is their order, steps that fit
the minutes given, and a report of what each stage added, on data none of them has learnt from. A
tour that is broken off goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
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
from qwell.train.tour_config import CONTEXT, TourConfig, model_config, pretrain_config, sft_config
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

Say = Callable[[str], None]


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
