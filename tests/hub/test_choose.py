"""Which files of a repository are one model."""

from __future__ import annotations

import pytest

from qwell.errors import NotFoundError
from qwell.hub.choose import choose, parts_of

GGUFS = [
    "qwen2.5-7b-instruct-q2_k.gguf",
    "qwen2.5-7b-instruct-q3_k_m.gguf",
    "qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf",
    "qwen2.5-7b-instruct-q4_k_m-00002-of-00002.gguf",
    "qwen2.5-7b-instruct-q8_0-00001-of-00003.gguf",
    "qwen2.5-7b-instruct-q8_0-00003-of-00003.gguf",
    "README.md",
]
FOLDER = ["config.json", "tokenizer.json", "LICENSE"]


def test_a_quantisation_is_one_file_or_a_whole_set() -> None:
    assert choose("q2_k", GGUFS, "repo") == (GGUFS[0],)
    assert choose("Q4_K_M", GGUFS, "repo") == (GGUFS[2], GGUFS[3])
    assert choose(GGUFS[3], GGUFS, "repo") == (GGUFS[2], GGUFS[3])
    assert choose("q8_0", ["sub/M.Q8_0.GGUF"], "repo") == ("sub/M.Q8_0.GGUF",)


@pytest.mark.parametrize(
    ("tag", "names", "message"),
    [
        ("q8_0", GGUFS, "repo: 1 of 3 parts are missing, first .*-00002-of-00003.gguf"),
        ("q6_k", GGUFS, "no file fits 'q6_k'.*It has qwen2.5-7b-instruct-q2_k.gguf, "),
        ("k_m", ["a-k_m.gguf", "b-k_m.gguf"], "more than one file fits 'k_m'"),
        ("q4_0", ["README.md"], "It has no .gguf file"),
        ("x.gguf", GGUFS, "no file fits"),
        (None, ["config.json", "pytorch_model.bin"], "no config.json with .safetensors weights"),
        (None, ["model.safetensors"], "no config.json"),
        (None, ["m-q4_0.gguf"], "for GGUF add :FILE, one of m-q4_0.gguf"),
        (None, [*FOLDER, "model-00001-of-00002.safetensors"], "first model-00002-of-00002.saf"),
    ],
)
def test_what_is_not_whole_is_refused(tag: str | None, names: list[str], message: str) -> None:
    with pytest.raises(NotFoundError, match=message):
        choose(tag, names, "repo")


def test_a_folder_takes_neither_pickles_nor_code_nor_doubles() -> None:
    extra = ["pytorch_model.bin", "modeling.py", "x.pt", "onnx/config.json", "README.md"]
    doubles = ["consolidated.safetensors"]
    names = [*FOLDER, "model.safetensors", *extra, *doubles]
    assert choose(None, names, "repo") == ("LICENSE", "config.json", "model.safetensors", FOLDER[1])


def test_parts_are_counted_from_the_name() -> None:
    assert parts_of("a.gguf") == ("a.gguf",)
    assert parts_of("a-00002-of-00002.gguf") == ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf")


def test_names_that_only_look_like_parts_are_files_of_their_own() -> None:
    for name in ("m-00001-of-00000.gguf", "m-00003-of-00002.gguf", "m-00001-of-99999.gguf"):
        assert parts_of(name) == (name,)
        with pytest.raises(NotFoundError, match=f"It has {name}"):
            choose("q4_0", [name], "repo")


def test_an_error_lists_ten_names_at_most() -> None:
    names = [f"m{i:02}-q{i:02}.gguf" for i in range(50)]
    with pytest.raises(NotFoundError, match="and 40 more"):
        choose("q99", names, "repo")
