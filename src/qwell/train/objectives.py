"""What stages learn from rows. Next-token prediction serves pre-training and fine-tuning both: the
rows say which tokens count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qwell.data.rows import Rows
from qwell.train.losses import cross_entropy


class NextToken:
    """The sum over targets of -log p(token | the tokens of its document before it)."""

    def weight(self, item: Rows) -> int:
        return item.num_targets

    def loss(self, model: Any, item: Rows, scale: float) -> Tensor:
        targets = torch.from_numpy(item.targets).long()

        def of(hidden: Tensor, head: Tensor) -> Tensor:
            return cross_entropy(hidden, head, targets.to(hidden.device), scale=scale)

        loss: Tensor = model(item.batch(), of)
        return loss
