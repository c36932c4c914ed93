"""Packed matrices are the file's weights; QLoRA is LoRA over them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from qwell.checkpoint.blocks import FORMATS
from qwell.checkpoint.tensor import Tensor
from qwell.train import kernels
from qwell.train.lora import LoraConfig, add_lora, merge_lora
from qwell.train.losses import cross_entropy
from qwell.train.packed import Packed, PackedLinear, pack, pack_linears
from qwell.train.weights import init_decoder
from tests.model.tiny import FloatTensor, make_config
from tests.train.test_parity import documents, relative

INTEGERS = [name for name, form in FORMATS.items() if form.codes is not None]


def blocks(name: str, rows: int = 6, columns: int = 512) -> Tensor:
    """Random bytes are sound blocks, but for their float16 scales."""
    form = FORMATS[name]
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, rows * columns // form.block * form.block_bytes, np.uint8)
    records = data.view(form.layout)
    for field, _ in form.floats:
        records[field] = rng.uniform(-0.1, 0.1, records[field].shape).astype(np.float16)
    return Tensor("w", name, (rows, columns), data)


@pytest.mark.parametrize("name", INTEGERS)
def test_the_weights_of_a_file_are_kept_exactly(name: str) -> None:
    source = blocks(name)
    packed = pack(source, "file")
    assert packed.bits == (4 if name in ("Q4_0", "Q4_1", "Q4_K", "Q2_K", "Q3_K") else 8)
    exact = torch.from_numpy(source.float32())
    assert torch.equal(packed.dequantise(torch.float32), exact)
    with kernels.slow_twins():
        assert torch.equal(packed.dequantise(), exact.bfloat16())
    assert torch.equal(packed.dequantise(), exact.bfloat16())


@pytest.mark.parametrize(("kind", "steps"), [("int8", 127), ("int4", 7)])
def test_rounding_is_to_the_nearest_step(kind: str, steps: int) -> None:
    array = np.random.default_rng(0).standard_normal((5, 96)).astype(np.float32)
    array[0, :32] = 0
    packed = pack(FloatTensor("w", array), kind)
    error = (packed.dequantise(torch.float32) - torch.from_numpy(array)).abs().view(5, 3, 32)
    assert (error <= 1.001 * packed.scale.abs()[..., None] * (0.5 if kind == "int8" else 1)).all()
    assert packed.scale.abs().max() <= np.abs(array).max() / steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_qlora_is_lora_over_the_dequantised_weights(dtype: torch.dtype) -> None:
    lora = LoraConfig(rank=4, targets=("q_proj", "down_proj"))
    config = make_config(intermediate_size=64)
    qlora, plain = (init_decoder(config, seed=0, dtype=dtype) for _ in range(2))
    tensors = {
        name: FloatTensor(name, p.detach().float().numpy().copy())
        for name, p in plain.named_parameters()
    }
    pack_linears(qlora.model.layers, "model.layers", tensors, "int8")
    with torch.no_grad():
        for name, module in qlora.named_modules():
            if isinstance(module, PackedLinear):
                plain.get_parameter(f"{name}.weight").copy_(module.base.dequantise(dtype))
    for model in (qlora, plain):
        add_lora(model, lora)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p))
    rows = documents(config)
    targets = torch.from_numpy(rows.targets).long()
    losses = []
    for model in (qlora, plain):
        loss = model(rows.batch(), partial(cross_entropy, targets=targets))
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == losses[1]
    for name, p in qlora.named_parameters():
        if p.requires_grad:
            assert relative(p.grad.float(), plain.get_parameter(name).grad.float()) <= 1e-6, name
    merge_lora(qlora)
    merge_lora(plain)
    for name, p in plain.named_parameters():
        bound = 1e-6 if dtype == torch.float32 else 2**-8
        mine = qlora.get_parameter(name).float()
        assert (mine - p.float()).norm() <= bound * p.float().norm(), name


def test_codes_of_four_bits_take_half_a_byte() -> None:
    codes = torch.arange(64, dtype=torch.uint8).remainder(16).view(2, 32)
    packed = Packed(codes, torch.ones(2, 1), None, 0)
    assert packed.codes.nbytes == 32
    assert torch.equal(packed.dequantise(torch.float32), codes.float())
