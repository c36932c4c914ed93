"""/metrics in Prometheus' format, and what it says of what happened."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from qwell.engine.counters import Counters, Tally
from qwell.engine.jobs import Limits
from qwell.engine.plan import Shape
from qwell.server.auth import read_keys
from qwell.server.metrics import metrics_text
from tests.engine.tiny import make_llm
from tests.native.tiny import open_native, tiny
from tests.server.live import Live, live, says, slow_llm

LINE = re.compile(
    r"# (HELP qwell_\w+ .+|TYPE qwell_\w+ (gauge|counter|histogram))|qwell_\w+({.*})? -?[\d.e+-]+"
)


def rows(server: Live) -> dict[str, float]:
    found = {}
    for line in server.http.get("/metrics").text.splitlines():
        assert LINE.fullmatch(line), line
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert name not in found
            found[name] = float(value)
    return found


def test_what_happened_is_counted() -> None:
    with live(says("Hello there, friend.")) as server:
        for _ in range(2):
            usage = server.chat("a long question " * 10).json()["usage"]
        assert server.chat(temperature=9).status_code == 400
        found = rows(server)
    prompt, reply = usage["prompt_tokens"], usage["completion_tokens"]
    assert found["qwell_tokens_in_total"] == 2 * prompt
    assert found["qwell_tokens_out_total"] == 2 * reply
    assert found["qwell_cache_hit_tokens_total"] >= 64
    assert found["qwell_ttft_seconds_count"] == 2
    assert found["qwell_gap_seconds_count"] == 2 * (reply - 1)
    assert found["qwell_queued"] == found["qwell_running"] == found["qwell_pages_used"] == 0
    assert found["qwell_pages_kept"] > 0
    # a step that reads a prompt moves no reply on; all others move one
    reading = found['qwell_batch_replies_bucket{le="0"}']
    assert found['qwell_batch_replies_bucket{le="1"}'] == found["qwell_steps_total"]
    assert found["qwell_steps_total"] - reading == 2 * (reply - 1)
    chat = 'qwell_http_responses_total{path="/v1/chat/completions",status="%d"}'
    assert found[chat % 200] == 2 and found[chat % 400] == 1


def test_refusals_have_their_reason(tmp_path: Path) -> None:
    key = "a-plain-key-of-24-letters"
    (tmp_path / "keys").write_text(f"{key} rpm=3\n{key}2 concurrent=0")
    tenants = read_keys(tmp_path / "keys")
    limits = Limits(max_queued=1)
    with live(slow_llm(), tenants=tenants, limits=limits) as server:
        heads = [{"Authorization": f"Bearer {key}{more}"} for more in ("", "2")]
        body = {"prompt": "a", "max_tokens": 1}
        for given, how, status in [
            (body, heads[0], 200),
            ({**body, "n": 5}, heads[0], 429),
            (body, heads[1], 429),
            (body, heads[0], 200),
            (body, heads[0], 429),
        ]:
            reply = server.post("/v1/completions", given, headers=how)
            assert reply.status_code == status
            assert ("retry-after" in reply.headers) == (status == 429)
        server.http.headers["Authorization"] = f"Bearer {key}"
        found = rows(server)
    name = 'qwell_refusals_total{reason="%s"}'
    for reason, times in (("queue", 1), ("rate_limit", 1), ("concurrency_limit", 1), ("wait", 0)):
        assert found[name % reason] == times, reason


def test_the_roofline_is_what_steps_read_over_what_memory_gives(tmp_path: Path) -> None:
    model = open_native(*tiny(tmp_path, "Q8_0"))
    llm = make_llm(model, max_context=256)
    read = llm.engine.step_bytes(Shape(replies=3, context=100))
    config = model.config
    cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 2 * 100
    assert 0 < model.read_bytes <= model.memory_bytes and read == model.read_bytes + cache
    assert llm.engine.step_bytes(Shape()) is None
    counters = Counters()
    counters.add_step(0.5, 3, 8_000_000_000)
    counters.add_step(0.1, 0, None)  # reads a prompt: says nothing of memory
    assert counters.read_gb_per_s == pytest.approx(16)
    with live(says("Yes.")) as server:
        snapshot = replace(server.app.served.service.snapshot(), read_gb_per_s=16.0)
    text = metrics_text(snapshot, {}, refusals={}, ceiling_gb_per_s=20.0)
    assert "\nqwell_roofline_fraction 0.8\n" in text
    assert "roofline" not in metrics_text(snapshot, {}, refusals={}, ceiling_gb_per_s=None)


def test_a_tally_puts_each_value_under_its_bound() -> None:
    tally = Tally((0.0, 1.0, 4.0))
    for value in (0, 1, 2, 4, 5, 100):
        tally.add(value)
    assert tally.frozen().counts == (1, 1, 2, 2)
    assert tally.frozen().total == 112
