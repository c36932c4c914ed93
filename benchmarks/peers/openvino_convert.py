"""A Hugging Face folder -> OpenVINO: int4 in groups of 64, embedding and head int8.

    python openvino_convert.py FOLDER OUT

Runs in OpenVINO's environment; optimum-intel and NNCF do the work, as its makers advise.
"""

from __future__ import annotations

import sys

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

if __name__ == "__main__":
    form = OVWeightQuantizationConfig(bits=4, group_size=64, sym=True, ratio=1.0)
    model = OVModelForCausalLM.from_pretrained(
        sys.argv[1], export=True, compile=False, quantization_config=form
    )
    model.save_pretrained(sys.argv[2])
