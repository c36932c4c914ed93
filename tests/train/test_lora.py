"""Adapters: PEFT computes the same, opens ours and is opened here; merging keeps the answer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from qwell.checkpoint import merged, open_adapter, open_checkpoint
from qwell.errors import CheckpointError
from qwell.train.lora import LoraConfig, LoraLinear, add_lora, merge_lora, save_adapter
from qwell.train.losses import cross_entropy
from qwell.train.modules import Decoder
from qwell.train.weights import init_decoder, save_folder
from tests.model.tiny import make_config
from tests.train.test_parity import documents, relative

CONFIG = LoraConfig(rank=4, alpha=8)


def adapted(seed: int = 0, config: LoraConfig = CONFIG, **shape: object) -> Decoder:
    """A decoder whose adapters are not zero."""
    decoder = init_decoder(make_config(**shape), seed=seed)
    add_lora(decoder, config, seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return decoder


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Model has .tie_word_embeddings")
@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_peft_opens_the_adapter_and_gives_the_same_gradients(
    tmp_path: Path, embeddings: bool, tied: bool
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lora = LoraConfig(rank=4, alpha=8, targets=("q_proj", "down_proj"), train_embeddings=embeddings)
    ours = adapted(config=lora, tie_word_embeddings=tied)
    base = init_decoder(make_config(tie_word_embeddings=tied), seed=0)
    save_folder(tmp_path / "base", base)
    save_adapter(tmp_path / "a", ours, lora, base=str(tmp_path / "base"))
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32),
        tmp_path / "a",
        is_trainable=True,
    )
    rows = documents(ours.config)
    first = torch.from_numpy(rows.input_ids[: rows.row_splits[1]]).long()[None]
    cut = type(rows)(
        rows.input_ids[: first.shape[1]], rows.row_splits[:2], rows.is_target[: first.shape[1]]
    )
    targets = torch.from_numpy(cut.targets).long()
    loss = ours(cut.batch(), partial(cross_entropy, targets=targets, scale=1 / cut.num_targets))
    loss.backward()
    labels = torch.where(torch.from_numpy(cut.is_target), first[0], -100)
    expected = torch.nn.functional.cross_entropy(
        theirs(input_ids=first).logits[0, :-1], labels[1:], ignore_index=-100
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    grads = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    seen = 0
    for name, parameter in ours.named_parameters():
        if "lora" in name:
            module, _, kind = name.partition(".lora_")
            key = f"base_model.model.{module}.lora_{kind[0]}.default.weight"
            assert relative(parameter.grad, grads[key]) <= 1e-5, name
            seen += 1
    assert seen == 2 * 2 * ours.config.num_layers


def test_an_adapter_comes_back_with_the_same_bits(tmp_path: Path) -> None:
    ours = adapted()
    save_adapter(tmp_path / "a", ours, CONFIG, base="x")
    found = open_adapter(tmp_path / "a", ours.config).loras
    kept = {name: m for name, m in ours.named_modules() if isinstance(m, LoraLinear)}
    assert found.keys() == kept.keys()
    for name, linear in kept.items():
        a, b = (torch.from_numpy(factor.float32()) for factor in (found[name].a, found[name].b))
        assert torch.equal(a, linear.lora_A.weight), name
        assert torch.equal(b, linear.scale * linear.lora_B.weight), name


def test_an_adapter_is_as_readable_as_its_config(tmp_path: Path) -> None:
    """Who serves it may be somebody else. Weights that are not finite are refused."""
    ours = adapted()
    save_adapter(tmp_path / "a", ours, CONFIG, base="x")
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "a").iterdir()}
    assert modes["adapter_model.safetensors"] == modes["adapter_config.json"]
    with torch.no_grad():
        next(p for p in ours.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="finite"):
        save_adapter(tmp_path / "b", ours, CONFIG, base="x")
    assert not (tmp_path / "b").exists()


def test_merged_equals_unmerged() -> None:
    ours = adapted()
    rows = documents(ours.config)
    with torch.no_grad():
        before = ours(rows.batch())
        merge_lora(ours)
        after = ours(rows.batch())
    assert set(ours.state_dict()) == set(init_decoder(make_config(), seed=0).state_dict())
    assert 0 < (after - before).abs().max() <= 1e-5 * before.abs().max()


@pytest.mark.parametrize("tied", [True, False])
def test_whole_embeddings_are_merged(tmp_path: Path, tied: bool) -> None:
    """What the base install merges is what training holds, embedding and head included."""
    lora = LoraConfig(rank=4, alpha=8, train_embeddings=True)
    ours = adapted(config=lora, tie_word_embeddings=tied)
    base = init_decoder(make_config(tie_word_embeddings=tied), seed=0)
    with torch.no_grad():
        ours.model.embed_tokens.weight.add_(1)
    save_folder(tmp_path / "base", base)
    save_adapter(tmp_path / "a", ours, lora, base="x")
    found = open_checkpoint(tmp_path / "base")
    whole = merged(found.tensors, open_adapter(tmp_path / "a", found.config, to_merge=True))
    merge_lora(ours)
    wanted = dict(ours.named_parameters())
    assert set(whole) == set(wanted) and ("lm_head.weight" in whole) is not tied
    for name, tensor in whole.items():
        torch.testing.assert_close(torch.from_numpy(tensor.float32()), wanted[name].detach())
