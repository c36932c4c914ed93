"""A GGUF -> its Q4_0 twin, by llama.cpp's own quantiser: `python llama_q4_0.py GGUF OUT`.

Runs in llama.cpp's environment. Quantised tensors are quantised again, so the twin is for speed
only; embedding and head get what llama.cpp gives them by default.
"""

from __future__ import annotations

import ctypes
import sys

import llama_cpp as llama

if __name__ == "__main__":
    params = llama.llama_model_quantize_default_params()
    params.ftype = llama.LLAMA_FTYPE_MOSTLY_Q4_0
    params.allow_requantize = True
    source, target = (path.encode() for path in sys.argv[1:3])
    sys.exit(llama.llama_model_quantize(source, target, ctypes.byref(params)))
