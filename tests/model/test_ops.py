"""Each op of the reference against a formula written another way: scalar loops in float64."""

from __future__ import annotations

import cmath
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qwell.model.batch import Batch
from qwell.model.reference import Reference, ReferenceKV
from qwell.model.weights import Embedding, Linear, Norm, Rope
from tests.model.tiny import FloatTensor, make_config

F32 = NDArray[np.float32]
H = 8


@pytest.fixture
def ops() -> Reference:
    return Reference(make_config(head_dim=H))


def normal(*shape: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def stored(array: F32) -> FloatTensor:
    return FloatTensor("t", array)


def of_layer(layer: int) -> Any:
    """The handle of a layer's attention, as far as the reference looks into it."""
    return SimpleNamespace(layer=layer)


def close(actual: F32, expected: Any) -> None:
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=1e-5, atol=1e-6)


def test_angles(ops: Reference) -> None:
    batch = Batch.make([[1, 1, 1], [1]], past=[0, 41])
    cos, sin = ops.angles(Rope(H, 1e4), batch)
    angle = [[p * 1e4 ** (-2 * i / H) for i in range(H // 2)] for p in (0, 1, 2, 41)]
    close(cos, [[math.cos(a) for a in row] for row in angle])
    close(sin, [[math.sin(a) for a in row] for row in angle])


def test_embed(ops: Reference) -> None:
    table = normal(10, 3)
    rows = ops.embed(Batch.make([[4, 9], [4]]), Embedding(stored(table)))
    close(rows, [table[4], table[9], table[4]])


@pytest.mark.parametrize("shape", [(5, 16), (5, 3, H)])
@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_rms_norm_over_the_length_of_its_weight(
    ops: Reference, shape: tuple[int, ...], eps: float
) -> None:
    x, weight = normal(*shape), normal(shape[-1], seed=1)
    rows = [
        [v * g / math.sqrt(sum(u * u for u in row) / len(row) + eps) for v, g in zip(row, weight)]
        for row in x.reshape(-1, shape[-1]).tolist()
    ]
    close(ops.rms_norm(x, Norm(stored(weight), eps)), np.reshape(rows, shape))


@pytest.mark.parametrize("biased", [True, False])
def test_linear(ops: Reference, biased: bool) -> None:
    x, weight, bias = normal(3, 5), normal(4, 5, seed=1), normal(4, seed=2)
    expected = [
        [
            math.fsum(a * b for a, b in zip(row, w)) + (c if biased else 0)
            for w, c in zip(weight, bias)
        ]
        for row in x
    ]
    close(ops.linear(x, Linear(stored(weight), stored(bias) if biased else None)), expected)


def test_split_heads_takes_the_count_from_the_shape(ops: Reference) -> None:
    x = normal(2, 3 * H)
    heads = ops.split_heads(x)
    assert heads.shape == (2, 3, H)
    close(heads[1, 2], x[1, 2 * H :])


def test_rope_turns_the_pairs_i_and_i_plus_half(ops: Reference) -> None:
    batch = Batch.make([[1, 1, 1]], past=[7])
    x, rope = normal(3, 2, H), Rope(H, 1e4)
    turned = ops.rope(x, ops.angles(rope, batch))
    for t, head, i in np.ndindex(3, 2, H // 2):
        pair = complex(x[t, head, i], x[t, head, i + H // 2])
        expected = pair * cmath.exp(1j * (7 + t) * 1e4 ** (-2 * i / H))
        actual = complex(turned[t, head, i], turned[t, head, i + H // 2])
        assert abs(actual - expected) < 1e-5


def test_silu_mul_without_overflow(ops: Reference) -> None:
    gate = np.array([[-500.0, -3.0, 0.0, 2.0, 500.0]], np.float32)
    up = np.array([[1.0, 2.0, 3.0, -4.0, 0.5]], np.float32)
    expected = [[g / (1 + math.exp(-g)) * u for g, u in zip(gate[0].tolist(), up[0].tolist())]]
    close(ops.silu_mul(gate, up), expected)


def test_select(ops: Reference) -> None:
    x = normal(4, 3)
    close(ops.select(x, Batch.make([[1, 2, 3], [4]])), [x[2], x[3]])
    assert ops.select(x, Batch.make([[1, 2, 3], [4]], logits="none")).shape == (0, 3)


def attend_slowly(q: F32, k: F32, v: F32) -> list[list[float]]:
    """Softmax attention in plain loops; the last len(q) positions of len(k) ask."""
    n, N, group = len(q), q.shape[1], q.shape[1] // k.shape[1]
    rows = []
    for t in range(n):
        row: list[float] = []
        for head in range(N):
            seen = range(len(k) - n + t + 1)
            score = [float(q[t, head].astype(float) @ k[j, head // group]) for j in seen]
            weight = [math.exp((s - max(score)) / math.sqrt(H)) for s in score]
            row += [
                math.fsum(p * float(v[j, head // group, i]) for j, p in zip(seen, weight))
                / math.fsum(weight)
                for i in range(H)
            ]
        rows.append(row)
    return rows


@pytest.mark.parametrize("heads", [(2, 2), (6, 2), (3, 1)])
def test_attention_sees_its_sequence_up_to_itself(ops: Reference, heads: tuple[int, int]) -> None:
    N, K = heads
    q, k, v = normal(5, N, H), 3 * normal(5, K, H, seed=1), normal(5, K, H, seed=2)
    out = ops.attention(q, k, v, Batch.make([[1, 1, 1], [1, 1]]), of_layer(0))
    close(out[:3], attend_slowly(q[:3], k[:3], v[:3]))
    close(out[3:], attend_slowly(q[3:], k[3:], v[3:]))


def test_attention_reads_the_past_from_its_own_pages(ops: Reference) -> None:
    config = make_config(head_dim=H)
    kv, pages, layer = ReferenceKV(config, 5), [[4, 1], [0, 2]], 1
    whole = [(normal(70, 4, H, seed=s), *normal(2, 70, 2, H, seed=s + 9)) for s in (0, 1)]

    def run(lo: int, hi: int) -> F32:
        rows = [np.concatenate([w[i][lo:hi] for w in whole]) for i in range(3)]
        n = hi - lo
        batch = Batch.make([[0] * n] * 2, past=[lo] * 2, kv=kv, pages=pages)
        return ops.attention(*rows, batch, of_layer(layer)).reshape(2, n, -1)

    run(0, 63)
    out = run(63, 70)  # crosses the border of a page
    for s, (q, k, v) in enumerate(whole):
        close(out[s], attend_slowly(q[63:], k, v))
    assert not kv.data[0].any()  # the other layer and
    assert not kv.data[:, :, 3].any()  # the page of nobody are untouched


def test_taps_collect_results_in_call_order() -> None:
    taps: list[F32] = []
    ops = Reference(make_config(), taps)
    x = normal(2, 4)
    first = ops.silu_mul(x, x)
    second = ops.rms_norm(first, Norm(stored(np.ones(4, np.float32)), 1e-6))
    assert taps[0] is first
    assert taps[1] is second
