"""GGUF headers written by hand, each with one lie."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from qwell.checkpoint.gguf import MAX_HEADER, read_gguf
from qwell.errors import CheckpointError, UnsupportedModelError
from tests.checkpoint.refusal import MOST_SECONDS, peak_bytes, refused

U32, U64, STRING, ARRAY = 4, 10, 8, 9


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw


def kv(key: str | bytes, kind: int, payload: bytes) -> bytes:
    return text(key) + u32(kind) + payload


def info(name: str, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + u32(len(dims)) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def header(kvs: list[bytes], infos: list[bytes], /, **over: int) -> bytes:
    counts = {"version": 3, "tensors": len(infos), "kvs": len(kvs)} | over
    start = b"GGUF" + u32(counts["version"]) + u64(counts["tensors"]) + u64(counts["kvs"])
    return start + b"".join(kvs) + b"".join(infos)


def write(path: Path, raw: bytes, data: int = 0, alignment: int = 32) -> Path:
    file = path / "x.gguf"
    file.write_bytes(raw + b"\0" * (-len(raw) % alignment + data))
    return file


def lie(path: Path, raw: bytes, word: str, data: int = 64) -> None:
    refused(write(path, raw, data), word)


def test_a_sound_header_reads(tmp_path: Path) -> None:
    raw = header([kv("k", STRING, text("v"))], [info("a", [8, 2]), info("b", [4], 1, 64)])
    file = read_gguf(write(tmp_path, raw, 96))
    assert file.metadata["k"] == "v"
    assert [(t.dtype, t.shape, len(t.data)) for t in file.tensors.values()] == [
        ("F32", (2, 8), 64),
        ("F16", (4,), 8),
    ]


def test_an_unpadded_last_tensor_is_fine(tmp_path: Path) -> None:
    assert len(read_gguf(write(tmp_path, header([], [info("a", [3])]), 12)).tensors) == 1


@pytest.mark.parametrize(
    "raw", [b"G", b"GGU", b"GGML" + bytes(40), bytes(64), b"PK\3\4" + bytes(9)]
)
def test_not_a_gguf(tmp_path: Path, raw: bytes) -> None:
    refused(write(tmp_path, raw), "is not a GGUF file")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    refused(tmp_path / "x.gguf", "is empty")


@pytest.mark.parametrize(
    "version, word",
    [(1, "version 1"), (4, "version 4"), (3 << 24, "big-endian"), (0, "version 0")],
)
def test_versions(tmp_path: Path, version: int, word: str) -> None:
    path = write(tmp_path, header([], [], version=version))
    refused(path, word, kind=UnsupportedModelError)


@pytest.mark.parametrize("count", [1000, 2**13, 2**13 + 1, 2**32, 2**61 + 1, 2**63, 2**64 - 1])
def test_counts_and_lengths_beyond_the_file(tmp_path: Path, count: int) -> None:
    lie(tmp_path, header([], [], kvs=count), "key", 0)
    lie(tmp_path, header([], [], tensors=count), "tensor", 0)
    lie(tmp_path, header([], [u64(count)], tensors=1), "a tensor name", 0)
    lie(tmp_path, header([kv("k", STRING, u64(count))], []), "the key 'k'", 0)
    for kind in (STRING, U64):
        array = kv("k", ARRAY, u32(kind) + u64(count))
        lie(tmp_path, header([array], []), "the key 'k' needs", 0)


def test_a_string_in_an_array_beyond_the_file(tmp_path: Path) -> None:
    for length in (100, 2**31, 2**63 - 8, 2**63, 2**64 - 1):
        for items in ([text("ok"), u64(length)], [u64(length), text("ok")]):
            array = u32(STRING) + u64(2) + b"".join(items)
            lie(tmp_path, header([kv("k", ARRAY, array)], []), "the key 'k' needs", 0)


@pytest.mark.parametrize("kind", [13, 14, 255, 2**32 - 1])
def test_unknown_value_types(tmp_path: Path, kind: int) -> None:
    lie(tmp_path, header([kv("k", kind, bytes(8))], []), f"unknown value type {kind}")
    lie(tmp_path, header([kv("k", ARRAY, u32(kind) + u64(1))], []), f"unknown type {kind}")


def test_nested_arrays(tmp_path: Path) -> None:
    nest = (u32(ARRAY) + u64(1)) * 10_000
    lie(tmp_path, header([kv("k", ARRAY, nest)], []), "nested arrays")


def test_repeated_keys_and_tensors(tmp_path: Path) -> None:
    lie(tmp_path, header([kv("k", U32, u32(1))] * 2, []), "'k' appears twice")
    twice = [info("a", [8]), info("a", [8], offset=32)]
    lie(tmp_path, header([], twice), "tensor 'a' appears twice")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    lie(tmp_path, header([kv(b"\xff", U32, u32(1))], []), "a key is not UTF-8")
    lie(tmp_path, header([kv("k", STRING, text(b"\xff"))], []), "'k' is not UTF-8")
    array = kv("k", ARRAY, u32(STRING) + u64(1) + text(b"\xff"))
    file = read_gguf(write(tmp_path, header([array], [])))
    with pytest.raises(CheckpointError, match=r"x.gguf: the key 'k' holds bytes"):
        file.metadata["k"]


def test_a_bool_of_two(tmp_path: Path) -> None:
    lie(tmp_path, header([kv("k", 7, b"\2")], []), "bool of value 2")


@pytest.mark.parametrize("alignment", [0, 3, 48, 2**31, 2**32 - 1])
def test_alignments_that_are_no_power_of_two(tmp_path: Path, alignment: int) -> None:
    lie(tmp_path, header([kv("general.alignment", U32, u32(alignment))], []), "general.alignment")


def test_an_alignment_that_is_no_number(tmp_path: Path) -> None:
    lie(tmp_path, header([kv("general.alignment", STRING, text("32"))], []), "general.alignment")
    array = u32(U32) + u64(1) + u32(32)
    lie(tmp_path, header([kv("general.alignment", ARRAY, array)], []), "general.alignment")


@pytest.mark.parametrize("n_dims", [0, 5, 2**31, 2**32 - 1])
def test_too_many_dimensions(tmp_path: Path, n_dims: int) -> None:
    raw = text("a") + u32(n_dims) + u64(1) * 8
    lie(tmp_path, header([], [raw]), f"tensor 'a' has {n_dims:,} dimensions")


@pytest.mark.parametrize(
    "tensor, word",
    [
        (info("a", [0]), "empty shape"),
        (info("a", [2**63, 2**63, 2**63, 2**63]), "tensor 'a' needs the bytes"),
        (info("a", [2**62, 4]), "tensor 'a' needs the bytes"),
        (info("a", [17]), "tensor 'a' needs the bytes"),
        (info("a", [31], 2), "not whole Q4_0 blocks"),
        (info("a", [128], 12), "not whole Q4_K blocks"),
        (info("a", [8], offset=32), "starts at 32, not at 0"),
        (info("a", [8], offset=2**64 - 32), "not at 0"),
        (info("a", [4]), "bytes follow the last tensor"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, tensor: bytes, word: str) -> None:
    lie(tmp_path, header([], [tensor]), word)


def test_tensors_that_overlap_or_leave_a_hole(tmp_path: Path) -> None:
    lie(tmp_path, header([], [info("a", [8]), info("b", [8])]), "'b' starts at 0, not at 32")
    hole = [info("a", [8]), info("b", [8], offset=64)]
    lie(tmp_path, header([], hole), "'b' starts at 64, not at 32", 96)


@pytest.mark.parametrize("kind", [4, 5, 9, 15, 16, 29, 39, 2**32 - 1])
def test_unknown_tensor_types(tmp_path: Path, kind: int) -> None:
    path = write(tmp_path, header([], [info("a", [32], kind)]), 64)
    refused(path, f"'a' has GGML type {kind}", kind=UnsupportedModelError)


def test_forty_three_bytes_that_loop_elsewhere(tmp_path: Path) -> None:
    """An array of a huge count, and the same cut inside the array (seen to hang a reader)."""
    raw = header([kv("k", ARRAY, u32(STRING) + u64(2**40))], [])
    lie(tmp_path, raw, "the key 'k' needs", 0)
    path = tmp_path / "x.gguf"
    path.write_bytes(raw[:43])
    refused(path, "the key 'k' needs")


def strings(count: int) -> bytes:
    return u32(STRING) + u64(count) + bytes(8 * count)


def test_the_costliest_headers_are_refused_in_time(tmp_path: Path) -> None:
    """As many items as a header can hold: two million empty strings, all keys, all tensors."""
    keys = [kv(f"{i:04}", 0, b"\1") for i in range(2**13 - 1)]
    infos = [info(f"{i:04}", [8], 0, 32 * i) for i in range(2**13)]
    refused(write(tmp_path, header(keys, infos), 2**18), "general.architecture is missing")
    raw = header([kv("k", ARRAY, strings(MAX_HEADER // 8 - 16))], [])
    path = write(tmp_path, raw)
    started = time.perf_counter()
    read_gguf(path)
    assert time.perf_counter() - started < MOST_SECONDS


def test_an_array_of_strings_costs_its_bytes_in_memory(tmp_path: Path) -> None:
    """8 bytes for a string of at least 8: the largest header costs 16 MB. Scaled down, because
    tracing memory is slow."""
    name = kv("general.architecture", ARRAY, strings(100_000))
    path = write(tmp_path, header([name], []))
    refused(path, "general.architecture is missing")
    assert peak_bytes(path) < 1_000_000


def test_a_header_larger_than_any_real_one(tmp_path: Path) -> None:
    count = MAX_HEADER // 8
    array = kv("k", ARRAY, u32(U64) + u64(count) + bytes(8 * count))
    refused(write(tmp_path, header([array], [])), "left for the header")
