"""A saved folder opens in transformers with the same logits, and here with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qwell.checkpoint import open_checkpoint
from qwell.config import GenerationConfig
from qwell.errors import UsageError
from qwell.train.weights import decoder_of, init_decoder, save_folder
from tests.model.tiny import make_config
from tests.train.test_parity import documents


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000])
def test_a_saved_folder_opens_in_transformers_and_here(
    tmp_path: Path, tied: bool, shard_bytes: int
) -> None:
    from transformers import AutoModelForCausalLM

    config = make_config(tie_word_embeddings=tied)
    ours = init_decoder(config, seed=1)
    save_folder(tmp_path / "m", ours, generation=GenerationConfig(), shard_bytes=shard_bytes)
    again, _ = decoder_of(open_checkpoint(tmp_path / "m"), dtype=torch.float32)
    assert again.config == config
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, ours.get_parameter(name)), name
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    rows = documents(config)
    first = rows.input_ids[: rows.row_splits[1]]
    with torch.no_grad():
        expected = theirs(input_ids=torch.from_numpy(first).long()[None]).logits[0]
        logits = ours(rows.batch())
    seen = rows.batch().out_rows < len(first)
    assert (logits[seen] - expected[rows.batch().out_rows[seen]]).abs().max() <= 1e-5
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        save_folder(tmp_path, init_decoder(make_config(), seed=0))


def test_bf16_is_read_without_a_detour(tmp_path: Path) -> None:
    ours = init_decoder(make_config(), seed=1, dtype=torch.bfloat16)
    save_folder(tmp_path / "m", ours)
    again, note = decoder_of(open_checkpoint(tmp_path / "m"))
    assert note == "weights from BF16, head tied to the embedding"
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, ours.get_parameter(name)), name


def test_the_spread_of_new_matrices_is_that_of_readers_alone() -> None:
    """And nothing else changes: the draws are the same."""
    readers = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    usual, wide = (init_decoder(make_config(), seed=1, std=std) for std in (0.02, 0.1))
    for name, parameter in wide.named_parameters():
        is_reader = parameter.ndim > 1 and name.split(".")[-2] in readers
        factor = 5.0 if is_reader else 1.0
        assert torch.allclose(parameter, factor * usual.get_parameter(name)), name
