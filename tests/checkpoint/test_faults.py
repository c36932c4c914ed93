"""Damage to whole files: cut at many points, single bits flipped, arbitrary mutations.

The law: a damaged file is refused by a typed error, or it opens as a whole checkpoint whose
every tensor and key can be read. Nothing else happens, quickly and in little memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwell.errors import CheckpointError
from tests.checkpoint import make
from tests.checkpoint.refusal import opens_or_refuses, refused

TOKENS = ["<|endoftext|>", "<|im_end|>", *"abcdef"]


def smallest() -> dict[str, object]:
    return make.tiny_config(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=8,
        eos_token_id=1,
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """kind -> the path to open; the file to damage is `target(kind, path)`."""
    base = tmp_path_factory.mktemp("models")
    config = smallest()
    tensors = make.random_tensors(config)
    gguf = make.write_gguf(base / "m.gguf", config, tensors, tokens=TOKENS, merges=["a b"])
    one = make.write_folder(base / "one", config, tensors, generation={"temperature": 0.7})
    three = make.write_folder(base / "three", config, tensors, shards=3)
    return {"gguf": gguf, "safetensors": one, "shards": three}


KINDS = ["gguf", "safetensors", "shards"]


def target(path: Path) -> Path:
    return path if path.is_file() else min(path.glob("*.safetensors"))


@pytest.fixture
def copy(models: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    def copied(kind: str) -> Path:
        source = models[kind]
        if source.is_file():
            return Path(shutil.copy(source, tmp_path))
        return shutil.copytree(source, tmp_path / "model")

    return copied


@pytest.mark.parametrize("kind", KINDS)
def test_cut_at_64_points(copy: Callable[[str], Path], kind: str) -> None:
    path = copy(kind)
    file = target(path)
    whole = file.read_bytes()
    for point in range(64):
        file.write_bytes(whole[: len(whole) * point // 64])
        refused(path, file=file.name)
    file.write_bytes(whole[:-40])
    refused(path, "tensor", file=file.name)
    file.write_bytes(whole)
    assert opens_or_refuses(path)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_after_the_end(copy: Callable[[str], Path], kind: str) -> None:
    path = copy(kind)
    with target(path).open("ab") as file:
        file.write(bytes(64))
    refused(path, "64 bytes", file=target(path).name)


@pytest.mark.parametrize("kind", KINDS)
def test_single_bits_flipped_in_the_header(copy: Callable[[str], Path], kind: str) -> None:
    """Every seventh byte of the first 4 KB and one bit of each; the first 24 bytes wholly."""
    path = copy(kind)
    file = target(path)
    whole = file.read_bytes()
    opened = 0
    spots = [(at, bit) for at in range(24) for bit in range(8)]
    spots += [(at, at % 8) for at in range(24, min(4096, len(whole)), 7)]
    for at, bit in spots:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bit
        file.write_bytes(damaged)
        opened += opens_or_refuses(path)
    assert opened < len(spots)


@pytest.mark.parametrize("kind", KINDS)
def test_zeroed_and_foreign_files(copy: Callable[[str], Path], kind: str) -> None:
    path = copy(kind)
    file = target(path)
    size = file.stat().st_size
    for content in (b"", bytes(size), b"\xff" * size, b"<!DOCTYPE html>\n" * (size // 16)):
        file.write_bytes(content)
        refused(path, file=file.name)


def test_a_pointer_file_in_place_of_the_weights(copy: Callable[[str], Path]) -> None:
    """What a clone without large-file support leaves behind."""
    path = copy("safetensors")
    target(path).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(path, "the header claims", file="model.safetensors")


FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
EDITS = st.lists(
    st.tuples(
        st.integers(0, 2**20),
        st.one_of(
            st.binary(min_size=1, max_size=9),
            st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\0" * 7 + b"\x80", b"{}", b"[", b'"', b"9"]),
        ),
        st.sampled_from(["put", "insert", "cut"]),
    ),
    min_size=1,
    max_size=4,
)


def mutate(raw: bytes, edits: list[tuple[int, bytes, str]], within: int) -> bytes:
    """Most edits strike the header: the first `within` bytes."""
    for at, patch, how in edits:
        at %= min(within, len(raw)) or 1
        end = {"put": at + len(patch), "insert": at, "cut": at + 4 * len(patch)}[how]
        raw = raw[:at] + (b"" if how == "cut" else patch) + raw[end:]
    return raw


@FUZZ
@given(edits=EDITS)
def test_mutated_gguf(models: dict[str, Path], tmp_path: Path, edits: list) -> None:
    path = tmp_path / "fuzz.gguf"
    path.write_bytes(mutate(models["gguf"].read_bytes(), edits, 3000))
    opens_or_refuses(path)


@FUZZ
@given(edits=EDITS)
def test_mutated_safetensors(models: dict[str, Path], tmp_path: Path, edits: list) -> None:
    folder = tmp_path / "fuzz"
    shutil.copytree(models["safetensors"], folder, dirs_exist_ok=True)
    file = folder / "model.safetensors"
    file.write_bytes(mutate(models["safetensors"].joinpath(file.name).read_bytes(), edits, 1600))
    opens_or_refuses(folder)


@FUZZ
@given(edits=EDITS, name=st.sampled_from(["config.json", "model.safetensors.index.json"]))
def test_mutated_json(models: dict[str, Path], tmp_path: Path, edits: list, name: str) -> None:
    folder = tmp_path / "fuzz"
    shutil.copytree(models["shards"], folder, dirs_exist_ok=True)
    (folder / name).write_bytes(mutate((models["shards"] / name).read_bytes(), edits, 4096))
    opens_or_refuses(folder)


@FUZZ
@given(raw=st.binary(max_size=200), start=st.sampled_from([b"", b"GGUF\3\0\0\0", b"GGUF\2\0\0\0"]))
def test_any_bytes(tmp_path: Path, raw: bytes, start: bytes) -> None:
    path = tmp_path / "any.gguf"
    path.write_bytes(start + raw)
    assert not opens_or_refuses(path)
    folder = tmp_path / "any"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "model.safetensors").write_bytes(raw)
    assert not opens_or_refuses(folder)


def test_a_file_that_may_not_be_read(
    copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy("gguf")
    real = Path.open

    def denied(self: Path, *a: object, **k: object) -> object:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *a, **k)

    monkeypatch.setattr(Path, "open", denied)
    refused(path, "Permission denied", kind=CheckpointError)
