"""Run by torchrun: one stage, its config as JSON. Not a test itself."""

from __future__ import annotations

import json
import sys

from qwell.train import pretrain, sft
from qwell.train.config import PretrainConfig, SftConfig


def main() -> None:
    raw = json.loads(sys.argv[2])
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    if sys.argv[1] == "sft":
        sft.main(SftConfig(**values))
    else:
        pretrain.main(PretrainConfig(**values))


if __name__ == "__main__":
    main()
