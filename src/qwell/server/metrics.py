"""/metrics: numbers of the service and of the server in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qwell.engine.counters import Histogram, Snapshot

GAUGES = {
    "running": "requests that compute",
    "queued": "requests that wait",
    "queued_tokens": "prompt tokens that wait",
    "pages_used": "pages of the KV cache in use",
    "pages_total": "pages of the KV cache",
    "estimated_wait_s": "seconds a request would wait now",
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
    "ttft_seconds": "from a request to its first token",
    "gap_seconds": "between two tokens of a reply",
}


def metrics_text(found: Snapshot, responses: Mapping[tuple[str, int], int]) -> str:
    """responses: (path, status) -> how many."""
    lines: list[str] = []
    for name, text in GAUGES.items():
        lines += _block(name, "gauge", text, [("", getattr(found, name))])
    for name, text in COUNTERS.items():
        lines += _block(f"{name}_total", "counter", text, [("", getattr(found, name))])
    refused = [(f'{{reason="{why}"}}', n) for why, n in sorted(found.refusals.items())]
    lines += _block("refusals_total", "counter", "requests refused by the queue", refused)
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
