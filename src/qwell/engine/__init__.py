"""Requests become replies: many at once over one back end, each as if it were alone.

types -> sampler, stops, kv_cache -> reply (one request) -> engine (all of them) -> llm (the public
face) -> load, packed, memory (a name becomes an LLM). Nothing here knows HTTP or terminals.
"""
