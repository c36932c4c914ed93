"""The rules of sharing, on plain numbers: nobody starves, short ones pass, keys are equal."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwell.engine.policy import (
    MIN_ROWS,
    MOST_GROWTH,
    SCORED_ROWS,
    Pace,
    Prompt,
    divide,
    entry_order,
)


def entry(**over: float) -> tuple[int, int, int]:
    values = {"priority": 0, "waited_s": 0, "running_of_key": 0, "arrival": 0} | over
    return entry_order(**values)  # type: ignore[arg-type]


def test_order_of_entry() -> None:
    assert entry(arrival=1) < entry(arrival=2)
    assert entry(arrival=9) < entry(arrival=1, running_of_key=1)  # keys take turns
    assert entry(arrival=9, running_of_key=5, priority=1) < entry(arrival=1)
    assert entry(waited_s=25) < entry(priority=1)  # whoever waits overtakes
    assert entry(waited_s=9) > entry(priority=1)


prompts = st.builds(
    Prompt,
    left=st.integers(1, 5000),
    priority=st.integers(0, 2),
    running_of_key=st.integers(1, 4),
    page=st.none() | st.integers(0, 3),
    is_scored=st.booleans(),
)


@given(st.lists(prompts, max_size=12), st.integers(1, 300))
def test_a_division_is_sound(asked: list[Prompt], budget: int) -> None:
    rows = divide(asked, budget)
    assert len(rows) == len(asked) and sum(rows) <= budget
    assert all(0 <= n <= one.left for n, one in zip(rows, asked, strict=True))
    assert sum(n for n, one in zip(rows, asked, strict=True) if one.is_scored) <= SCORED_ROWS
    if asked:
        least = min(asked[0].left, max(1, budget // 4))
        assert rows[0] >= (min(least, SCORED_ROWS) if asked[0].is_scored else least)
    pages = [one.page for n, one in zip(rows, asked, strict=True) if n and one.page is not None]
    assert len(pages) == len(set(pages))
    if not any(one.is_scored or one.page is not None for one in asked):
        assert sum(rows) == min(budget, sum(one.left for one in asked))


def test_short_prompts_pass_a_long_one_which_goes_on() -> None:
    assert divide([Prompt(8000), Prompt(20), Prompt(300)], 80) == [20, 20, 40]
    assert divide([Prompt(8000)], 80) == [80]
    assert divide([Prompt(100), Prompt(30, priority=-1), Prompt(99)], 100) == [25, 0, 75]


def test_a_key_with_many_requests_does_not_push_another_aside() -> None:
    crowd = [Prompt(10, running_of_key=9)] * 9
    assert divide([*crowd, Prompt(50, running_of_key=1)], 64)[-1] == 50


def play(pace: Pace, base_s: float, row_s: float, steps: int = 40) -> list[float]:
    """Lengths of steps on a machine that is as it is, every third one without a prompt."""
    found = []
    for step in range(steps):
        rows = pace.rows(256) if step % 3 else 0
        found.append(base_s + rows * row_s)
        pace.learn(rows, found[-1])
    return found


@pytest.mark.parametrize("base_s", [0.005, 0.03, 0.08])
@pytest.mark.parametrize("row_s", [0.0008, 0.002, 0.006])
def test_steps_come_to_take_what_they_should(base_s: float, row_s: float) -> None:
    late = [s for s in play(Pace(goal_s=0.15), base_s, row_s)[20:] if s > base_s]
    assert all(s == pytest.approx(min(0.15, base_s + 256 * row_s), rel=0.2) for s in late) or (
        late[-1] == pytest.approx(base_s + MIN_ROWS * row_s)
    )


def test_no_slope_makes_a_step_much_longer() -> None:
    """Where noise says that a row costs next to nothing, the next step is but little larger."""
    pace = Pace(goal_s=0.12)
    pace.learn(100, 0.12)
    pace.base_s, pace.row_s = 0.0, 1e-5
    assert pace.rows(256) == int(MOST_GROWTH * 100)


def test_a_pause_does_not_make_the_next_step_small() -> None:
    pace = Pace(goal_s=0.12)
    for _ in range(40):
        pace.learn(100, 0.12)
    pace.learn(100, 300)
    assert pace.rows(256) >= 48


def test_a_machine_too_slow_still_reads() -> None:
    pace = Pace(goal_s=0.15)
    play(pace, 0.5, 0.1)
    assert {pace.rows(256) for _ in range(3)} == {MIN_ROWS, 2 * MIN_ROWS}
    assert Pace().rows(77) == 77


@pytest.mark.parametrize("rows", [0, 5, 100])
def test_a_pause_of_minutes_changes_little(rows: int) -> None:
    pace = Pace(goal_s=0.15)
    play(pace, 0.02, 0.001)
    base_s, row_s = pace.base_s, pace.row_s
    pace.learn(rows, 180)
    assert pace.base_s < 2 * base_s and pace.row_s < 2 * row_s
    assert pace.reading_s(1000, 256) < 2 * 1000 * (base_s / 100 + row_s)
    play(pace, 0.02, 0.001, steps=24)
    assert pace.base_s == pytest.approx(base_s, rel=0.2)
    assert pace.row_s == pytest.approx(row_s, rel=0.2)


def test_who_is_slow_for_good_is_believed_soon() -> None:
    pace = Pace(goal_s=0.15)
    play(pace, 0.02, 0.001)
    play(pace, 0.4, 0.02, steps=45)
    assert pace.base_s == pytest.approx(0.4, rel=0.3) and pace.row_s == pytest.approx(0.02, rel=0.3)


def test_a_crowded_machine_still_reads_whole_chunks() -> None:
    """Beside other work the threads of a step wait for one another at every barrier: base_s grows a
    hundredfold, row_s hardly. With prompts in every step only their different sizes tell that."""
    pace, noise = Pace(goal_s=0.12), Random(2)
    play(pace, 0.016, 0.001)
    read, took = 0, 0.0
    for _ in range(60):
        rows = pace.rows(256)
        seconds = (2 + rows * 0.006) * noise.uniform(0.7, 1.3)
        pace.learn(rows, seconds)
        read, took = read + rows, took + seconds
    assert read / took > 20  # by 16 rows a step, 8
    assert pace.reading_s(1000, 256) == pytest.approx(1000 * took / read, rel=0.5)


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_make_long_steps(seed: int) -> None:
    """A long prompt beside streams, rows that cost more and more; a step takes 7 % more or less,
    now and then 30 % more."""
    pace, noise = Pace(goal_s=0.12), Random(seed)
    for rows in (*[0] * 30, 30, 30, 30):
        pace.learn(rows, (0.016 + rows * 0.0008) * noise.uniform(0.9, 1.2))
    for step in range(90):
        rows = pace.rows(250)
        seconds = (0.018 + rows * (0.0007 + 6e-6 * step)) * noise.choice((1, 1, 1, 1, 1.3))
        seconds *= noise.uniform(0.93, 1.07)
        assert step == 0 or seconds < 0.2
        pace.learn(rows, seconds)


def test_short_prompts_too_tell_that_it_is_fast_again() -> None:
    pace = Pace(base_s=2.0, row_s=0.5)
    pace.learn(5, 0.02)
    assert pace.base_s <= 0.02 and pace.row_s <= 0.004


def test_many_streams_do_not_stop_prompts() -> None:
    """Replies alone take longer than a step should: prompts still get a quarter of the time."""
    pace = Pace(goal_s=0.15)
    steps = play(pace, 0.24, 0.001, steps=60)
    assert steps[-1] == pytest.approx(0.24 / 0.75, rel=0.1)
