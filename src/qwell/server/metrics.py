"""/metrics: numbers of the service and of the server in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qwell.engine.counters import Histogram, Snapshot

GAUGES = {
    "running": "requests that compute",
    "queued": "requests that wait",
    "queued_tokens": "prompt tokens that wait",
    "pages_used": "pages of the KV cache in use",
    "pages_kept": "pages of ended requests kept for those that begin alike",
    "pages_total": "pages of the KV cache",
    "estimated_wait_s": "seconds a request would wait now",
    "reply_step_s": "of late, seconds of a step that reads no prompt",
    "prompt_row_s": "of late, seconds of one prompt token",
    "read_gb_per_s": "of late, memory read by steps that read no prompt",
}
COUNTERS = {
    "steps": "steps of the engine",
    "tokens_in": "prompt tokens taken",
    "tokens_out": "tokens written",
    "cache_hit_tokens": "prompt tokens found in the prefix cache",
    "cache_miss_tokens": "prompt tokens computed",
}
HISTOGRAMS = {
    "step_seconds": "length of a step",
    "batch_replies": "replies a step moved on",
    "ttft_seconds": "from a request to its first token",
    "gap_seconds": "between two tokens of a reply",
}
REASONS = ("queue", "tokens", "wait", "grammars", "draining", "rate_limit", "concurrency_limit")


def metrics_text(
    found: Snapshot,
    responses: Mapping[tuple[str, int], int],
    *,
    refusals: Mapping[str, int],
    ceiling_gb_per_s: float | None,
) -> str:
    """responses: (path, status) -> how many. refusals: those not of the queue, by reason.
    ceiling_gb_per_s: what this machine's memory gives at best, if it was measured."""
    lines: list[str] = []
    if ceiling_gb_per_s:
        share = found.read_gb_per_s / ceiling_gb_per_s
        text = "share of the memory bandwidth measured at start that replies are written with"
        lines += _block("roofline_fraction", "gauge", text, [("", share)])
    for name, text in GAUGES.items():
        lines += _block(name, "gauge", text, [("", getattr(found, name))])
    for name, text in COUNTERS.items():
        lines += _block(f"{name}_total", "counter", text, [("", getattr(found, name))])
    reasons = {**dict.fromkeys(REASONS, 0), **found.refusals, **refusals}
    refused = [(f'{{reason="{why}"}}', n) for why, n in sorted(reasons.items())]
    lines += _block("refusals_total", "counter", "requests that were not taken", refused)
    counted = [
        (f'{{path="{path}",status="{status}"}}', n)
        for (path, status), n in sorted(responses.items())
    ]
    lines += _block("http_responses_total", "counter", "responses by route and status", counted)
    for name, text in HISTOGRAMS.items():
        lines += _histogram(name, text, getattr(found, name))
    return "\n".join(lines) + "\n"


def _block(name: str, kind: str, text: str, values: Sequence[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP qwell_{name} {text}"
    yield f"# TYPE qwell_{name} {kind}"
    for labels, value in values:
        yield (
            f"qwell_{name}{labels} {value:.9g}"
            if isinstance(value, float)
            else (f"qwell_{name}{labels} {value}")
        )


def _histogram(name: str, text: str, found: Histogram) -> Iterator[str]:
    yield f"# HELP qwell_{name} {text}"
    yield f"# TYPE qwell_{name} histogram"
    below = 0
    for bound, count in zip([*found.bounds, None], found.counts, strict=True):
        below += count
        label = "+Inf" if bound is None else f"{bound:g}"
        yield f'qwell_{name}_bucket{{le="{label}"}} {below}'
    yield f"qwell_{name}_sum {found.total:.9g}"
    yield f"qwell_{name}_count {below}"
