"""Names of the family: every spelling, every refusal."""

from __future__ import annotations

import pytest

from qwell.errors import NotFoundError, QwellError, UsageError
from qwell.hub.catalogue import entries, lookup

CODER = "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF"


def test_the_whole_family_is_there() -> None:
    repos = {entry.repo for entry in entries()}
    for family, sizes in {
        "": "0.5B 1.5B 3B 7B 14B 32B 72B",
        "-Coder": "0.5B 1.5B 3B 7B 14B 32B",
        "-Math": "1.5B 7B 72B",
    }.items():
        for size in sizes.split():
            base = f"Qwen/Qwen2.5{family}-{size}"
            assert {base, f"{base}-Instruct"} <= repos
            assert (f"{base}-Instruct-GGUF" in repos) == (family != "-Math")
    assert len(repos) == 2 * 16 + 13


def test_names_and_keys_are_unique_and_names_lead_home() -> None:
    for attribute in ("name", "key"):
        assert len({getattr(entry, attribute) for entry in entries()}) == len(entries())
    for entry in entries():
        assert lookup(entry.name) is entry
        assert lookup(f"{entry.repo}:{entry.tag}" if entry.tag else entry.repo) is entry


@pytest.mark.parametrize(
    "spelling",
    [
        "qwen2.5-coder:0.5b",
        "Qwen2.5-Coder:0.5B",
        "qwen2.5-coder:0.5b-instruct",
        "qwen2.5-coder:0.5b-instruct-q4_k_m",
        "qwen2.5-coder:0.5b-q4_k_m",
        CODER,
        CODER.lower(),
        f"{CODER}:Q4_K_M",
        f"{CODER}:qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    ],
)
def test_every_spelling_of_the_default_model(spelling: str) -> None:
    entry = lookup(spelling)
    assert (entry.name, entry.repo, entry.tag) == ("qwen2.5-coder:0.5b", CODER, "q4_k_m")
    assert entry.files[0].size == 491_400_064 and entry.mirror


@pytest.mark.parametrize(
    ("name", "repo", "tag"),
    [
        ("qwen2.5:7b-instruct", "Qwen/Qwen2.5-7B-Instruct-GGUF", "q4_k_m"),
        ("qwen2.5:7b-instruct-q8_0", "Qwen/Qwen2.5-7B-Instruct-GGUF", "q8_0"),
        ("qwen2.5:7b-bf16", "Qwen/Qwen2.5-7B-Instruct", None),
        ("qwen2.5:7b-base", "Qwen/Qwen2.5-7B", None),
        ("qwen2.5-math:7b", "Qwen/Qwen2.5-Math-7B-Instruct", None),
        ("Qwen/Qwen2.5-72B", "Qwen/Qwen2.5-72B", None),
        ("other/Model-GGUF", "other/Model-GGUF", "q4_k_m"),
        ("other/Model", "other/Model", None),
        ("other/Model:Q8_0", "other/Model", "q8_0"),
        ("other/Model:sub/File.gguf", "other/Model", "sub/File.gguf"),
    ],
)
def test_a_name_means_a_repository_and_a_file(name: str, repo: str, tag: str | None) -> None:
    entry = lookup(name)
    assert (entry.repo, entry.tag) == (repo, tag)
    assert entry.is_official == repo.startswith("Qwen/")


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("qwen2.5:3b", "Qwen Research License"),
        ("qwen2.5-coder:3b-base", "Qwen Research License"),
        ("qwen2.5-math:72b", "Qwen License"),
        ("qwen2.5:32b", "Apache-2.0"),
    ],
)
def test_licences(name: str, licence: str) -> None:
    assert lookup(name).licence == licence


def test_sampling_defaults_follow_the_makers() -> None:
    penalty = {
        n: lookup(n).generation.repetition_penalty  # type: ignore[union-attr]
        for n in ("qwen2.5:0.5b", "qwen2.5:7b", "qwen2.5-coder:7b", "qwen2.5-coder:32b")
    }
    assert list(penalty.values()) == [1.1, 1.05, 1.1, 1.05]
    math, base = lookup("qwen2.5-math:7b").generation, lookup("qwen2.5:7b-base").generation
    assert math and not math.do_sample and math.eos_token_ids == (151_645, 151_643)
    assert base and not base.do_sample and base.eos_token_ids == (151_643,)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("qwen2.5-coder:0.6b", "did you mean qwen2.5-coder:0.5b"),
        ("qwen2.5:7b-instuct", "qwen2.5:7b-instruct"),
        ("Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("qwen2.5:7b-base-q4_k_m", "did you mean"),
        ("qwen2.5-coder", "it comes in sizes: qwen2.5-coder:0.5b, qwen2.5-coder:1.5b"),
        ("Qwen2.5:", "it comes in sizes: Qwen2.5:0.5b"),
        ("llama", "a Hugging Face id (Org/Name), a folder or a .gguf file"),
    ],
)
def test_a_wrong_name_gets_the_nearest(wrong: str, hint: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        lookup(wrong)
    assert hint in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("hub", ["hf.co/", "https://huggingface.co/", "https://hf.co/"])
def test_an_address_of_the_hub_is_an_id(hub: str) -> None:
    assert lookup(f"{hub}Qwen/Qwen2.5-7B-Instruct") == lookup("Qwen/Qwen2.5-7B-Instruct")
    assert lookup(f"{hub}some/thing-GGUF:q8_0").tag == "q8_0"
    for page in ("/", "/tree/main"):  # as it stands in a browser
        assert lookup(f"{hub}Qwen/Qwen2.5-7B{page}") == lookup("Qwen/Qwen2.5-7B")


def test_an_address_inside_a_name_is_none() -> None:
    """It was cut out: somebody else's model was asked for."""
    assert lookup("my-hf.co/thing").repo == "my-hf.co/thing"


@pytest.mark.parametrize(
    "name",
    [
        "a/b/c",
        "https://huggingface.co/a/b/resolve/main/x.gguf",
        "../b",
        "a/..",
        "a/b:../c",
        "a/b:",
        "a--b/c",
        "a/b\n",
        "a/b:c\n",
        "/",
        "a/b c",
    ],
)
def test_what_can_be_no_id_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        lookup(name)
    assert "\n" not in str(caught.value) and isinstance(caught.value, QwellError)


def test_keys_stay_one_folder() -> None:
    for name in ("other/Model:sub/File.gguf", "qwen2.5:7b", "a/b"):
        assert "/" not in lookup(name).key
