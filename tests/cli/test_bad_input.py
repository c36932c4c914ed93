"""Everything a user can get wrong: the exit code, one line that says what to do, nothing changed.

Each case names what the command is given, and the code and words that must come back. All are held
to the same `assert_refused`; many run as processes of their own.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qwell import errors
from tests.cli import damage
from tests.cli.tiny import Result, Run, process, tree, write_model

USAGE, MISSING, NETWORK, DISK = 2, 3, 4, 5
CORRUPT, UNSUPPORTED, TEXT, CONTEXT, MEMORY = 6, 7, 8, 9, 10


def test_codes_are_those_of_the_errors() -> None:
    kinds = ("Usage", "NotFound", "Download", "Storage", "Checkpoint", "UnsupportedModel", "Text")
    codes = [getattr(errors, f"{kind}Error").exit_code for kind in kinds]
    assert codes == [USAGE, MISSING, NETWORK, DISK, CORRUPT, UNSUPPORTED, TEXT]
    assert errors.ContextLengthError.exit_code == CONTEXT
    assert errors.MemoryBudgetError.exit_code == MEMORY


def assert_refused(result: Result, code: int, *words: str) -> None:
    """The one line: whose it is, what is wrong, what to do; no traceback, no half answer."""
    assert result.code == code, result
    assert result.out == ""
    assert result.err.endswith("\n")
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("qwell: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err, result.err


INPUTS = {"bad", "own.jinja", "saved.json", "notes.txt", "held"}
"""What tests put into the working folder themselves."""


@pytest.fixture(autouse=True)
def unchanged(model: Path, home: Path) -> Iterator[None]:
    """Checks after every test that the home and the model are what they were before, and that
    the working folder holds nothing but the test's inputs."""
    before = tree(home, model)
    yield
    assert tree(home, model) == before
    assert {path.name for path in Path().iterdir()} <= INPUTS


DAMAGED: list[tuple[damage.Damage, int, str]] = [
    (damage.cut_gguf, CORRUPT, "m.gguf"),
    (damage.cut_gguf_header, CORRUPT, "m.gguf"),
    (damage.empty_gguf, CORRUPT, "m.gguf"),
    (damage.no_gguf, CORRUPT, "m.gguf"),
    (damage.gguf_from_the_future, UNSUPPORTED, "99"),
    (damage.gguf_with_absurd_counts, CORRUPT, "m.gguf"),
    (damage.missing_part, MISSING, "m-00002-of-00003.gguf"),
    (damage.foreign_gguf, UNSUPPORTED, "llama"),
    (damage.cut_safetensors, CORRUPT, "model.safetensors"),
    (damage.endless_header, CORRUPT, "model.safetensors"),
    (damage.header_is_no_json, CORRUPT, "model.safetensors"),
    (damage.missing_tensor, CORRUPT, "model.norm.weight"),
    (damage.wrong_shape, CORRUPT, "gate_proj"),
    (damage.not_a_number, CORRUPT, "model.layers.1.mlp.up_proj.weight"),
    (damage.no_config, MISSING, "config.json"),
    (damage.config_is_no_json, CORRUPT, "config.json"),
    (damage.config_without_sizes, CORRUPT, "hidden_size"),
    (damage.negative_layers, CORRUPT, "num_hidden_layers"),
    (damage.foreign_architecture, UNSUPPORTED, "llama"),
    (damage.yarn, UNSUPPORTED, "rope_scaling"),
    (damage.pickled, MISSING, "safetensors"),
    (damage.missing_shard, MISSING, "model-00002-of-00003.safetensors"),
    (damage.no_tokenizer, MISSING, "tokenizer.json"),
    (damage.broken_tokenizer, CORRUPT, "vocab.json"),
    (damage.template_is_no_text, CORRUPT, "chat_template"),
    (damage.empty_folder, MISSING, "config.json"),
    (damage.text_file, USAGE, "notes.txt"),
    (damage.huge, CORRUPT, "model.embed_tokens.weight"),
]


@pytest.mark.parametrize("make, code, word", DAMAGED, ids=lambda v: getattr(v, "__name__", ""))
def test_broken_model(run: Run, make: damage.Damage, code: int, word: str) -> None:
    Path("bad").mkdir()
    bad = make(Path("bad"))
    before = tree(Path("bad"))
    assert_refused(run("run", bad, "Hi"), code, word)
    assert tree(Path("bad")) == before


@pytest.mark.parametrize("make", [damage.broken_template, damage.no_template])
def test_model_without_a_usable_template(
    run: Run, make: damage.Damage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such a model loads, for --raw is sound; so it leaves its packed form."""
    monkeypatch.setenv("QWELL_HOME", str(tmp_path / "other"))
    Path("bad").mkdir()
    assert_refused(run("run", make(Path("bad")), "Hi"), TEXT, "template")


def test_a_batch_is_not_written_over_what_is_read(run: Run) -> None:
    Path("notes.txt").write_text("{}\n")
    Path("held").symlink_to("notes.txt")
    assert_refused(run("batch", "notes.txt", "held", "--model", "m"), USAGE, "held")
    assert Path("notes.txt").read_text() == "{}\n"
    assert_refused(run("batch", "notes.txt", ".", "--model", "m"), USAGE, "is a folder")


OPTIONS: list[tuple[list[str], int, str]] = [
    (["--temperature", "-1"], USAGE, "temperature"),
    (["--temperature", "nan"], USAGE, "temperature"),
    (["--temperature", "warm"], USAGE, "--temperature"),
    (["--top-p", "2"], USAGE, "top_p"),
    (["--top-k", "-3"], USAGE, "top_k"),
    (["--min-p", "1.5"], USAGE, "min_p"),
    (["--repetition-penalty", "0"], USAGE, "repetition_penalty"),
    (["--presence-penalty", "9"], USAGE, "presence_penalty"),
    (["--max-tokens", "0"], USAGE, "max_tokens"),
    (["--max-tokens", "5", "--min-tokens", "6"], USAGE, "min_tokens"),
    (["--seed", "1.5"], USAGE, "--seed"),
    (["--seed", str(2**70)], USAGE, "seed"),
    (["--stop", ""], USAGE, "stop"),
    (["--logprobs", "1"], USAGE, "--json"),
    (["--logprobs", "1000", "--json"], USAGE, "logprobs"),
    (["--ctx", "0"], USAGE, "--ctx"),
    (["--ctx", "513"], USAGE, "512"),
    (["--threads", "0"], USAGE, "--threads"),
    (["--threads", "two"], USAGE, "--threads"),
    (["--temprature", "1"], USAGE, "did you mean --temperature"),
    (["--raw", "--system", "x"], USAGE, "--raw"),
    (["another", "word"], USAGE, "quotes"),
    (["--chat-template", "nowhere.jinja"], MISSING, "nowhere.jinja"),
]


@pytest.mark.parametrize("options, code, word", OPTIONS, ids=lambda v: str(v)[:40])
def test_impossible_option(run: Run, model: Path, options: list[str], code: int, word: str) -> None:
    assert_refused(run("run", model, "Hi", *options), code, word)


BENCHES: list[tuple[list[str], int, str]] = [
    (["--batch", "0"], USAGE, "--batch"),
    (["--batch", "1,,4"], USAGE, "--batch"),
    (["--batch", "many"], USAGE, "--batch"),
    (["--batch", "256"], USAGE, "255"),
    (["--threads", "0"], USAGE, "--threads"),
    (["--threads", "2000"], USAGE, "1024"),
    (["--prompt-tokens", "0"], USAGE, "--prompt-tokens"),
    (["--prompt-tokens", "some"], USAGE, "--prompt-tokens"),
    (["--prompt-tokens", "500"], USAGE, "512"),
    (["--prompt-tokens", "9" * 30], USAGE, "512"),
    (["--gen-tokens", "-1"], USAGE, "--gen-tokens"),
    (["--repeat", "0"], USAGE, "--repeat"),
    (["--", "--batch", "1"], USAGE, "--batch stands behind --"),
    (["--batches", "1"], USAGE, "did you mean --batch"),
    (["again"], USAGE, "one argument too many"),
]


@pytest.mark.parametrize("options, code, word", BENCHES, ids=lambda v: str(v)[:40])
def test_impossible_bench(run: Run, model: Path, options: list[str], code: int, word: str) -> None:
    assert_refused(run("bench", model, *options), code, word)


TEMPLATES = [
    (b"{% for m in messages %}", "template"),
    (b"{{ messages[0].nothing.at_all }}", "template"),
    (b"{{ raise_exception('no such role') }}", "no such role"),
    (b"\xff\xfe{", "UTF-8"),
]


@pytest.mark.parametrize("source, word", TEMPLATES)
def test_bad_chat_template(run: Run, model: Path, source: bytes, word: str) -> None:
    Path("own.jinja").write_bytes(source)
    result = run("run", model, "Hi", "--chat-template", "own.jinja")
    assert_refused(result, TEXT, word)


def test_prompts_that_cannot_be_answered(run: Run, model: Path) -> None:
    assert_refused(run("run", model, ""), USAGE, "empty")
    assert_refused(run("run", model, "-", stdin=b""), USAGE, "empty")
    assert_refused(run("run", model, "-", stdin=b"caf\xe9"), TEXT, "UTF-8", "byte 3")
    assert_refused(run("run", model, "x" * 600), CONTEXT, "512", "shorten")
    assert_refused(run("run", model, "x" * 60, "--ctx", "32"), CONTEXT, "32", "--ctx")


# --- as processes ---------------------------------------------------------------------------

COMMANDS: list[tuple[list[str], int, str]] = [
    (["ruun", "x", "y"], USAGE, "did you mean run"),
    (["--verbose"], USAGE, "--help"),
    (["run"], USAGE, "MODEL"),
    (["run", "qwen2.5-coder:0.5b"], USAGE, "PROMPT"),
    (["run", "qwen2.5-codr:0.5b", "Hi"], MISSING, "did you mean qwen2.5-coder:0.5b"),
    (["run", "./nowhere", "Hi"], MISSING, "nowhere"),
    (["run", "", "Hi"], USAGE, "give an alias"),
    (["run", "a//b", "Hi"], MISSING, "a/b"),
    (["run", "qwen2.5-coder:0.5b", "Hi"], NETWORK, "QWELL_OFFLINE"),
    (["pull", "Org/Name"], NETWORK, "QWELL_OFFLINE"),
    (["show", "qwen2.5:7b", "--program"], MISSING, "qwell pull qwen2.5:7b"),
    (["chat", "nope"], MISSING, "no model is called"),
    (["verify", "nope"], MISSING, "no model is called"),
    (["bench", "nope"], MISSING, "no model is called"),
    (["bench"], USAGE, "MODEL"),
    (["rm", "qwen2.5:7b"], MISSING, "qwell list"),
]


@pytest.mark.parametrize("argv, code, word", COMMANDS, ids=lambda v: str(v)[:40])
def test_command_line(argv: list[str], code: int, word: str) -> None:
    assert_refused(process(*argv), code, word)


def test_bytes_that_are_no_text(model: Path) -> None:
    assert_refused(process("run", model, os.fsdecode(b"caf\xe9")), USAGE, "PROMPT", "UTF-8")


def _limit(kind: int, size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (size, size))


def test_disk_is_full(model: Path, tmp_path: Path) -> None:
    """The first load cannot write the packed weights; no piece of them stays."""
    home = tmp_path / "other"
    result = process(
        "run", model, "Hi",
        env={"QWELL_HOME": str(home)},
        before=_limit(resource.RLIMIT_FSIZE, 50_000),
    )  # fmt: skip
    assert_refused(result, DISK, "free some space", str(home))
    assert tree(home) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full and /sys are Linux")
def test_answer_cannot_be_written(model: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = process("run", model, "Hi", "-n", "2", "--ignore-eos", stdout=full)
    assert_refused(result, DISK, "No space left")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full and /sys are Linux")
@pytest.mark.parametrize("place", ["/sys/qwell", "held"])
def test_home_that_cannot_be_written(model: Path, place: str) -> None:
    Path("held").write_text("a file where a folder should be")
    result = process("run", model, "Hi", env={"QWELL_HOME": place})
    assert_refused(result, DISK, "QWELL_HOME")


def test_no_memory(model: Path) -> None:
    """Enough to start Python and NumPy (its BLAS takes memory for every thread), not to run."""
    limit = _limit(resource.RLIMIT_AS, 250 << 20)
    result = process("run", model, "Hi", before=limit, env={"OPENBLAS_NUM_THREADS": "1"})
    assert_refused(result, MEMORY, "are available", "close other programs")


def test_no_memory_for_the_context(tmp_path: Path, home: Path) -> None:
    """A context of two terabytes, by a config that is otherwise sound."""
    wide = write_model(tmp_path / "wide", max_position_embeddings=2**31 - 1)
    other = {"QWELL_HOME": str(tmp_path / "other")}
    result = process("run", wide, "Hi", "--ctx", str(2**31 - 1), env=other)
    assert_refused(result, MEMORY, "--ctx")


@pytest.mark.parametrize(
    "name, value", [("QWELL_FORCE_ISA", "avx9000"), ("QWELL_NUM_THREADS", "many")]
)
def test_bad_environment(model: Path, name: str, value: str) -> None:
    assert_refused(process("run", model, "Hi", env={name: value}), USAGE, name)


CHATS: list[tuple[bytes, int, str]] = [
    (b"/nothing\n", USAGE, "/help"),
    (b"/sav x\n", USAGE, "did you mean /save"),
    (b"/save\n", USAGE, "/save FILE"),
    (b"/reset now\n", USAGE, "/reset"),
    (b"/load nowhere.json\n", MISSING, "nowhere.json"),
    (b"/load saved.json\n", USAGE, "saved.json"),
    (b"/save notes.txt\n", USAGE, "another name"),
    (b"/save no/such/folder\n", DISK, "another place"),
    (b'"""never closed\n', USAGE, '"""'),
    (b"caf\xe9\n", TEXT, "UTF-8"),
    (b"x" * 600 + b"\n", CONTEXT, "512"),
]


@pytest.mark.parametrize("typed, code, word", CHATS, ids=lambda v: str(v)[:24])
def test_chat_in_a_pipe(run: Run, model: Path, typed: bytes, code: int, word: str) -> None:
    Path("notes.txt").write_text("precious")
    Path("saved.json").write_text('{"model": "m", "messages": [{"role": "king"}]}')
    assert_refused(run("chat", model, stdin=typed), code, word)
    assert Path("notes.txt").read_text() == "precious"
