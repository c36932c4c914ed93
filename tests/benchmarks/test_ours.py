"""Our own peer's plan of steps, and the export's bf16 and header."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from export import bf16, write_folder
from ours import chunks, measure, read_prompts

from qwell.checkpoint import open_checkpoint
from tests.native.tiny import open_native, tiny


@pytest.mark.parametrize(
    ("lengths", "rows"), [([512], 256), ([128] * 16, 256), ([100, 7, 300], 64)]
)
def test_chunks_read_every_row_once_in_order_and_fill_every_step(lengths: list[int], rows: int):
    steps = list(chunks(lengths, rows))
    read = [(s, at) for step in steps for s, start, stop in step for at in range(start, stop)]
    assert read == [(s, at) for s, length in enumerate(lengths) for at in range(length)]
    sizes = [sum(stop - start for _, start, stop in step) for step in steps]
    assert set(sizes[:-1]) <= {rows}
    assert 0 < sizes[-1] <= rows


def test_bf16_rounds_to_nearest_even():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    values[:3] = 1 + 2**-8, 1 + 3 * 2**-8, -0.0  # two ties
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    assert np.array_equal(bf16(values), expected)


def test_the_exported_folder_is_the_checkpoint(tmp_path: Path):
    """Read back by qwell's own reader: the config is the same, the weights are those in bf16."""
    checkpoint, _ = tiny(tmp_path, "Q8_0")
    write_folder(checkpoint, tmp_path / "out")
    back = open_checkpoint(tmp_path / "out")
    assert back.config == checkpoint.config
    assert back.generation.eos_token_ids == checkpoint.generation.eos_token_ids
    for name, tensor in checkpoint.tensors.items():
        assert np.array_equal(
            back.tensors[name].data.view(np.uint16), bf16(tensor.float32()).ravel()
        )


def test_our_peer_measures_prompts_in_one_step_or_many(tmp_path: Path):
    model = open_native(*tiny(tmp_path), max_rows=16)
    prompts = [[1, 2, 3, 4, 5] * 4, [7, 8, 9] * 3]
    times = measure(model, prompts, gen_tokens=3)
    assert times.decoded_tokens == 6
    assert times.prefill_seconds > 0 < times.decode_seconds


def test_chunked_prompts_give_the_tokens_of_whole_ones(tmp_path: Path):
    checkpoint, pack = tiny(tmp_path)
    prompts = [[1, 2, 3, 4, 5] * 4, [7, 8, 9] * 3]
    pages = [[0], [1]]
    small, large = (open_native(checkpoint, pack, max_rows=rows) for rows in (16, 64))
    first = read_prompts(small, prompts, small.new_kv(2), pages)
    assert first == read_prompts(large, prompts, large.new_kv(2), pages)
    assert len(first) == 2
