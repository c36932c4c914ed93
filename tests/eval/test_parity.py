"""measure and verify: a perturbed reference in the native program's place, then the real one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qwell.errors import NotFoundError, UsageError
from qwell.eval.divergence import compare, summarise
from qwell.eval.parity import Truth, cut_windows, measure, verify
from qwell.eval.text import EvalText
from qwell.model.batch import Batch
from qwell.model.reference import ReferenceModel
from qwell.model.weights import build_weights
from tests.cli.tiny import write_model
from tests.model.tiny import FloatTensor, make_config, random_ids, random_tensors

F32 = NDArray[np.float32]
CONFIG = make_config(tie_word_embeddings=False)


def bf16(x: F32) -> F32:
    """Rounded towards zero to the 16 upper bits."""
    return (x.view(np.uint32) & 0xFFFF0000).view(np.float32)


def model(change: Callable[[F32], F32] = lambda x: x) -> ReferenceModel:
    tensors = random_tensors(CONFIG, seed=1)
    changed = {name: FloatTensor(name, change(t.array)) for name, t in tensors.items()}
    return ReferenceModel(build_weights(CONFIG, changed))


def windows(count: int, tokens: int) -> NDArray[np.int32]:
    ids = random_ids(CONFIG, count * tokens)
    return np.asarray(ids, np.int32).reshape(count, tokens)


class Watched:
    """A model that remembers its batches."""

    def __init__(self, inner: ReferenceModel) -> None:
        self.inner, self.config, self.new_kv = inner, inner.config, inner.new_kv
        self.batches: list[Batch] = []

    def step(self, batch: Batch) -> F32:
        self.batches.append(batch)
        return self.inner.step(batch)


@pytest.mark.parametrize(("count", "tokens"), [(1, 3), (3, 70), (2, 150), (9, 20)])
def test_the_same_model_has_no_divergence(count: int, tokens: int) -> None:
    found = measure(model().weights, model(), windows(count, tokens))
    assert list(found) == ["prefill", "decode"]
    for path in found.values():
        assert path.rows == count * tokens
        assert path.kl_max < 1e-9
        assert path.top1 == 1
        assert abs(path.perplexity_change) < 1e-5
        assert path.perplexity == pytest.approx(path.perplexity_ref, rel=1e-5)


def test_a_rounded_model_is_measured_as_its_logits_say() -> None:
    """The figures of both paths equal those of whole windows, worked out without `measure`."""
    ids, rounded, truth = windows(3, 40), model(bf16), model()
    parts = []
    for row in ids:
        batch = Batch.make([row.tolist()], logits="all")
        parts.append(compare(truth.step(batch), rounded.step(batch), np.append(row[1:], -1)))
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(parts[0])
    }
    expected = dataclasses.asdict(summarise(type(parts[0])(**joined)))
    assert expected["kl_mean"] > 1e-5
    for path in measure(truth.weights, rounded, ids).values():
        assert dataclasses.asdict(path) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_one_wrong_path_is_seen() -> None:
    """A fault in reply rows alone shows in decode alone."""

    class Faulty(ReferenceModel):
        def step(self, batch: Batch) -> F32:
            logits = super().step(batch)
            is_reply = batch.positions >= np.repeat(batch.prompt_len, np.diff(batch.row_splits))
            return logits + is_reply[batch.out_rows, None] * np.sin(np.arange(97, dtype=np.float32))

    found = measure(model().weights, Faulty(model().weights), windows(2, 30))
    assert found["prefill"].kl_mean < 1e-9
    assert found["decode"].kl_mean > 0.01


def test_paths_ask_for_prompt_rows_and_reply_rows() -> None:
    watched = Watched(model())
    measure(model().weights, watched, windows(3, 150))
    prefill, decode = watched.batches[:6], watched.batches[6:]
    assert [b.num_rows for b in prefill] == [128, 22] * 3
    assert all((b.positions < b.prompt_len[0]).all() for b in prefill)
    assert len(decode) == 150
    assert all(b.num_rows == 3 and b.prompt_len.tolist() == [1, 1, 1] for b in decode)
    assert [b.past.tolist() for b in decode] == [[t] * 3 for t in range(150)]
    assert sorted(decode[-1].page_table.ravel()) == list(range(9))  # nobody shares a page


def test_a_model_of_nans_meets_no_bar() -> None:
    found = measure(model().weights, model(lambda x: x * np.float32(np.nan)), windows(1, 8))
    assert np.isnan(found["decode"].kl_mean)


def test_the_reference_forgets_layers_that_ran() -> None:
    truth = Truth(model().weights, windows(1, 8))
    held = sum(x.nbytes for x in truth._ops._floats.values())
    assert held <= 4 * CONFIG.hidden_size  # the final norm


def test_progress_names_stage_and_windows() -> None:
    lines: list[str] = []
    measure(model().weights, model(), windows(9, 4), lines.append)
    assert lines == [
        f"{stage}: windows {part} of 9"
        for part in ("1-8", "9-9")
        for stage in ("reference", "prefill", "decode")
    ]


class Letters:
    """A tokenizer of one token a character."""

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]


def test_windows_are_the_first_tokens() -> None:
    text = EvalText("t", "abcdefgh" * 500)
    assert cut_windows(Letters(), text, 2, 3).tolist() == [[97, 98, 99], [100, 101, 102]]


class Sparse:
    """A tokenizer of one token for every twenty characters."""

    def encode(self, text: str) -> list[int]:
        return list(range(len(text) // 20))


def test_a_text_of_long_tokens_is_read_further() -> None:
    text = EvalText("t", "x" * 20 * 400)
    assert cut_windows(Sparse(), text, 4, 100).reshape(-1).tolist() == list(range(400))


def test_a_short_text_is_refused_with_the_counts() -> None:
    with pytest.raises(UsageError, match="2 windows of 3 need 6 tokens but t has 5: give a longer"):
        cut_windows(Letters(), EvalText("t", "abcde"), 2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWELL_HOME", str(tmp_path / "home"))


@pytest.mark.usefixtures("home")
def test_verify_measures_the_native_program(folder: Path, tmp_path: Path) -> None:
    story = tmp_path / "story.txt"
    story.write_text("The last ferry left at ten past six. " * 20)
    report = verify(str(folder), windows=3, window_tokens=100, text=story, num_threads=2)
    assert (report.windows, report.window_tokens, report.text) == (3, 100, "story.txt")
    assert report.backend.startswith("native, ")
    assert report.backend.endswith(", 2 threads")
    for path in report.paths.values():
        assert path.rows == 300
        assert 0 < path.kl_mean < 0.001
        assert path.top1_clear == 1
    assert report.seconds > 0


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("numbers", [(0, 100), (1, 2), (-1, 5)])
def test_impossible_numbers_are_refused_before_any_work(numbers: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="at least 1 window of at least 3 tokens"):
        verify("no-such-model", windows=numbers[0], window_tokens=numbers[1])


@pytest.mark.usefixtures("home")
def test_windows_beyond_the_context_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="513"):
        verify(str(folder), windows=1, window_tokens=513)


@pytest.mark.usefixtures("home")
def test_a_missing_text_is_found_out_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot be read"):
        verify("no-such-model", text=tmp_path / "none.txt")
