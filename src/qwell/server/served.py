"""What is being served: one model, its service, and facts about both that never change.

Routes and the batch command share it. Knows no request.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass, field
from functools import cached_property

from qwell.engine.llm import LLM
from qwell.engine.service import Service
from qwell.engine.types import SamplingParams
from qwell.errors import TextError
from qwell.server.errors import ApiError
from qwell.server.settings import Settings

_SYSTEM = re.compile(r"<\|im_start\|>system\n(.*?)<\|im_end\|>", re.DOTALL)


@dataclass(frozen=True)
class Served:
    """One model that is served."""

    llm: LLM
    service: Service
    settings: Settings
    aliases: tuple[str, ...] = ()
    """Other names the model answers to."""
    ceiling_gb_per_s: float | None = None
    """What this machine's memory gives at best, if it was measured."""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        return self.llm.name

    def check_model(self, asked: str | None) -> None:
        """Raises ApiError 404 for the name of another model."""
        if asked not in (None, self.name, *self.aliases):
            raise ApiError(
                404,
                f"the model {asked!r:.80} is not served here: ask for {self.name!r}",
                "model",
                "model_not_found",
            )

    @cached_property
    def template_id(self) -> str | None:
        """Hash of the chat template's source."""
        if self.llm.template is None:
            return None
        return f"sha256:{hashlib.sha256(self.llm.template.source.encode()).hexdigest()}"

    @cached_property
    def default_sampling(self) -> dict[str, float]:
        """What is in force where a request says nothing."""
        params = SamplingParams.defaults(self.llm.generation)
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        zero = ("presence_penalty", "frequency_penalty")
        return {name: getattr(params, name) for name in (*names, *zero)}

    @cached_property
    def default_system(self) -> str | None:
        """The system prompt the template puts where a chat has none."""
        if self.llm.template is None:
            return None
        try:
            text = self.llm.template.render([{"role": "user", "content": "-"}])
        except TextError:  # a template that wants a system message has no default
            return None
        found = _SYSTEM.search(text)
        return found[1] if found else None
