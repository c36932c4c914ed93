"""Loading: the packed cache is whole or absent, later starts need nothing else, faults are told.

Runs the native back end on tiny files, beside the reference on the same ones.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import qwell
from qwell.config import GenerationConfig
from qwell.engine import load as module
from qwell.engine import packed
from qwell.engine.types import SamplingParams
from qwell.errors import (
    CheckpointError,
    MemoryBudgetError,
    NotFoundError,
    StorageError,
    UsageError,
)
from qwell.hub.catalogue import Entry
from qwell.hub.packs import remove_packed
from qwell.hub.resolve import ResolvedModel
from qwell.native import pack as native_pack
from qwell.text.vocabulary import BYTE_OF
from tests.checkpoint.make import random_tensors, tiny_config, write_folder, write_gguf
from tests.engine.tiny import MERGES

TOKENS = [*BYTE_OF, *(merge.replace(" ", "") for merge in MERGES), "<|endoftext|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
PARAMS = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QWELL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QWELL_OFFLINE", "1")
    return tmp_path / "home"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = tiny_config(vocab_size=280, eos_token_id=263)
    tensors = random_tensors(config, scale=0.3)
    return write_gguf(
        tmp_path / "tiny.gguf",
        config,
        tensors,
        {"default": "F32"},
        TOKENS,
        MERGES,
        chat_template=TEMPLATE,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same kind of model as a Hugging Face folder."""
    config = tiny_config(vocab_size=280, eos_token_id=262)
    generation = {"eos_token_id": [263], "do_sample": True, "temperature": 0.5}
    path = write_folder(tmp_path / "hf", config, random_tensors(config), generation=generation)
    vocab = {token: i for i, token in enumerate(TOKENS[:262])}
    (path / "vocab.json").write_text(json.dumps(vocab))
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES))
    added = {
        str(i): {"content": TOKENS[i], "special": True, "lstrip": False, "normalized": False}
        for i in (262, 263)
    }
    settings = {"added_tokens_decoder": added, "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def tree(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


def packs(home: Path) -> list[Path]:
    return sorted((home / "packed").iterdir())


def test_native_and_reference_load_the_same_file(model: Path) -> None:
    fast, slow = qwell.load(str(model)), qwell.load(str(model), backend="reference")
    assert (fast.config, fast.generation) == (slow.config, slow.generation)
    assert fast.name == slow.name and fast.max_context == slow.max_context == 512
    assert fast.generation.eos_token_ids
    ids = fast.tokenizer.encode("abc stop it")
    assert ids == slow.tokenizer.encode("abc stop it")
    assert fast.logprobs(ids)[1:] == pytest.approx(slow.logprobs(ids)[1:], abs=0.05)
    assert fast.template is not None and fast.template.source == TEMPLATE
    rendered = len(fast.tokenizer.encode("user: hi\nassistant: "))
    assert fast.chat("hi", PARAMS).usage.prompt_tokens == rendered
    assert fast.engine.load_ms is not None and fast.engine.load_ms > 0


def test_a_crowd_changes_nothing_on_the_native_back_end(model: Path) -> None:
    """Bit for bit: log-probabilities too."""
    llm = qwell.load(str(model))
    params = replace(PARAMS, temperature=0.9, seed=4, logprobs=2, max_tokens=20)
    prompts = ["abc" * n for n in (1, 50, 20, 3, 90)]
    alone = [llm.generate(prompt, params) for prompt in prompts]
    for found, expected in zip(llm.generate(prompts, params), alone, strict=True):
        assert found.token_ids == expected.token_ids
        assert found.logprobs == expected.logprobs


def test_threads_share_a_model(model: Path) -> None:
    """Python threads that ask one LLM at the same time get the replies they get alone, whole."""
    llm = qwell.load(str(model))
    params = replace(PARAMS, temperature=0.9, seed=4, max_tokens=30)
    prompts = ["abc" * n for n in (1, 50, 20, 3, 90, 7)]
    alone = [llm.generate(prompt, params) for prompt in prompts]

    def streamed(prompt: str) -> tuple[str, tuple[int, ...]]:
        pieces = list(llm.stream(prompt, params, raw=True))
        ids = tuple(token for piece in pieces for token in piece.token_ids)
        return "".join(piece.text for piece in pieces), ids

    with ThreadPoolExecutor(len(prompts)) as pool:
        found = list(pool.map(streamed, prompts * 3))
    assert found == [(reply.text, reply.token_ids) for reply in alone] * 3


def test_int8_is_a_pack_of_its_own(folder: Path, home: Path) -> None:
    plain, small = qwell.load(str(folder)), qwell.load(str(folder), int8=True)
    assert small.backend.memory_bytes < 0.8 * plain.backend.memory_bytes
    assert len(packs(home)) == 2
    ids = plain.tokenizer.encode("abc stop it")
    assert small.logprobs(ids)[1:] == pytest.approx(plain.logprobs(ids)[1:], abs=0.2)
    with pytest.raises(UsageError, match="int8"):
        qwell.load(str(folder), int8=True, backend="reference")


def test_int8_keys_and_values(folder: Path) -> None:
    plain, small = qwell.load(str(folder)), qwell.load(str(folder), kv_dtype="int8")
    ids = plain.tokenizer.encode("abc stop it")
    want, got = plain.logprobs(ids)[1:], small.logprobs(ids)[1:]
    assert list(got) != list(want) and got == pytest.approx(want, abs=0.1)
    with pytest.raises(UsageError, match="'bf16' or 'int8'"):
        qwell.load(str(folder), kv_dtype="int4")
    with pytest.raises(UsageError, match="native"):
        qwell.load(str(folder), kv_dtype="int8", backend="reference")


def test_the_second_start_reads_the_pack_alone(
    model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    first = qwell.load(str(model), progress=lambda *state: told.append(state))
    assert told and told[-1][0] == told[-1][1]
    assert tree(home / "packed")[1:] == [
        f"{packs(home)[0].name}/{name}"
        for name in ("model.json", "tokenizer.json", "weights.bin", "weights.json")
    ]
    facts = json.loads((packs(home)[0] / "model.json").read_text())
    assert facts["source"] == [str(model)] and facts["version"] == packed.VERSION

    def forbidden(*_: Any) -> None:
        raise AssertionError("the checkpoint was opened")

    monkeypatch.setattr("qwell.checkpoint.open_checkpoint", forbidden)
    before = tree(home)
    again = qwell.load(str(model), progress=lambda *_: pytest.fail("packed again"))
    assert again.generate("abc", PARAMS).token_ids == first.generate("abc", PARAMS).token_ids
    assert (again.config, again.generation) == (first.config, first.generation)
    assert qwell.load_tokenizer(str(model)).encode("abc") == first.tokenizer.encode("abc")
    assert tree(home) == before


def test_a_folder_with_its_own_generation_config(folder: Path, home: Path) -> None:
    llm = qwell.load(str(folder))
    assert sorted(llm.generation.eos_token_ids) == [262, 263]
    assert (llm.generation.temperature, llm.generation.do_sample) == (0.5, True)
    assert llm.template is not None and llm.template.source == TEMPLATE
    assert len(llm.generate("abc", PARAMS).token_ids) == 10
    # Any change of its files makes another pack, and the packs before it go; the sources tell
    # `rm` what this one is of.
    qwell.load(str(folder), int8=True)
    old = set(packs(home))
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("assistant: ", "reply: "))
    changed = qwell.load(str(folder))
    assert changed.template is not None and changed.template.source.endswith("reply: ")
    assert len(packs(home)) == 1 and not old & set(packs(home))
    qwell.load(str(folder), int8=True)
    assert len(packs(home)) == 2
    assert remove_packed([folder]) > 0
    assert not (home / "packed").exists() or not packs(home)


def test_the_tokenizer_alone_writes_nothing(model: Path, folder: Path, home: Path) -> None:
    for path in (model, folder):
        assert qwell.load_tokenizer(str(path)).encode("abc") == [257]
    assert not home.exists()


def test_what_the_catalogue_knows_of_a_gguf_counts(model: Path) -> None:
    known = GenerationConfig(eos_token_ids=(262,), temperature=0.7, repetition_penalty=1.1)
    entry = Entry(name="n", repo="o/r", generation=known)
    found = GenerationConfig(eos_token_ids=(263,), temperature=1.0)
    resolved = ResolvedModel(name="n", paths=(model,), kind="gguf", entry=entry)
    merged = module.generation_of(resolved, found)
    assert replace(merged, eos_token_ids=()) == replace(known, eos_token_ids=())
    assert sorted(merged.eos_token_ids) == [262, 263]
    assert module.generation_of(replace(resolved, kind="folder"), found) == found
    assert module.generation_of(replace(resolved, entry=None), found) == found


@pytest.mark.parametrize(
    "damage", ["cut", "no model.json", "version", "null", "no tokenizer.json", "no weights.bin"]
)
def test_a_damaged_pack_is_made_anew(damage: str, model: Path, home: Path) -> None:
    expected = qwell.load(str(model)).generate("abc", PARAMS).token_ids
    facts = packs(home)[0] / "model.json"
    if damage == "cut":
        facts.write_bytes(facts.read_bytes()[:40])
    elif damage == "version":
        facts.write_text(facts.read_text().replace('"version": 1', '"version": 0'))
    elif damage == "null":
        facts.write_text("null")
    else:
        facts.with_name(damage.removeprefix("no ")).unlink()
    assert qwell.load(str(model)).generate("abc", PARAMS).token_ids == expected
    assert len(packs(home)) == 1


def test_damaged_weights_are_told(model: Path, home: Path) -> None:
    qwell.load(str(model))
    weights = packs(home)[0] / "weights.bin"
    os.truncate(weights, 100)
    with pytest.raises(StorageError, match=r"damaged.*delete"):
        qwell.load(str(model))


def test_what_a_killed_process_left_is_cleared(model: Path, home: Path) -> None:
    qwell.load(str(model))
    pack = packs(home)[0]
    shutil.move(pack, pack.with_name(f".{pack.name}-12345"))
    qwell.load(str(model))
    assert [path.name for path in packs(home)] == [pack.name]


@pytest.fixture(
    params=[OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), "read-only"]
)
def failure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Packing fails half way."""
    error = request.param
    if error == "read-only":
        error = OSError(errno.EROFS, "Read-only file system")

    def write_some(folder: Path, *_: Any, **__: Any) -> None:
        (folder / "weights.bin").write_bytes(b"half")
        raise error

    monkeypatch.setattr(native_pack, "write_packed", write_some)
    return error


def test_a_failed_pack_leaves_no_trace(failure: Any, model: Path, home: Path) -> None:
    with pytest.raises((StorageError, KeyboardInterrupt)) as caught:
        qwell.load(str(model))
    if isinstance(caught.value, StorageError):
        assert "QWELL_HOME" in str(caught.value) and "\n" not in str(caught.value)
    assert not home.exists()


def test_no_room_is_told_before_anything_is_written(
    model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(model.parent)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="free some space"):
        qwell.load(str(model))
    assert not home.exists()


def test_a_home_that_is_a_file(model: Path, home: Path) -> None:
    home.write_text("no folder")
    with pytest.raises(StorageError, match="QWELL_HOME"):
        qwell.load(str(model))
    assert home.read_text() == "no folder"


def test_two_starts_at_once_pack_once(
    model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, write = [], native_pack.write_packed

    def counted(*args: Any, **options: Any) -> None:
        calls.append(args)
        write(*args, **options)

    monkeypatch.setattr(native_pack, "write_packed", counted)
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(qwell.load, str(model)) for _ in range(3)]
        ids = {f.result().generate("abc", PARAMS).token_ids for f in found}
    assert len(ids) == len(calls) == len(packs(home)) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ctx": 0}, UsageError, "ctx is 0"),
        ({"ctx": 513}, UsageError, "made for at most 512 tokens"),
        ({"backend": "gpu"}, UsageError, "'native' or 'reference'"),
        ({"num_threads": 0}, UsageError, "num_threads must be a number from 1 to 1024"),
        ({"num_threads": 2, "backend": "reference"}, UsageError, "native back end only"),
    ],
)
def test_impossible_options(
    options: dict[str, Any], error: type[Exception], message: str, model: Path
) -> None:
    with pytest.raises(error, match=message):
        qwell.load(str(model), **options)


def test_a_smaller_context(model: Path) -> None:
    llm = qwell.load(str(model), ctx=100, num_threads=1)
    assert (llm.max_context, llm.engine.cache.pool.num_pages) == (100, 2)


def test_files_that_are_no_model(tmp_path: Path, home: Path) -> None:
    with pytest.raises(NotFoundError):
        qwell.load(str(tmp_path / "none.gguf"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    for backend in ("native", "reference"):
        with pytest.raises(CheckpointError, match=r"bad\.gguf"):
            qwell.load(str(tmp_path / "bad.gguf"), backend=backend)
    assert not home.exists()


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_too_little_memory(backend: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwell.engine.memory.available_bytes", lambda: 10**6)
    with pytest.raises(MemoryBudgetError, match="use a smaller model"):
        qwell.load(str(model), backend=backend)
