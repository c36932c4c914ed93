"""A name becomes verified files: `qwell.hub.resolve.resolve(model)` is the way in.

catalogue -> resolve -> pull -> sources | mirror -> download, part -> store -> packs -> place.
The room knows files, sizes and hashes; what is inside a model file is the business of `checkpoint`.

Environment: QWELL_HOME (where models lie; default ~/.cache/qwell), QWELL_OFFLINE=1 or
HF_HUB_OFFLINE=1 (no network), QWELL_SOURCE (sources to try, in order, comma separated:
huggingface, modelscope, mirror), HF_ENDPOINT, QWELL_MODELSCOPE_ENDPOINT, HF_TOKEN.
"""
