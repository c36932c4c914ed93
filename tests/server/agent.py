"""Run by qwen-agent's own Python: `agent.py URL HOW MODEL ARTICLE [SYSTEM]`. Prints as JSON what
the agent did.

HOW: 'raw' hands tools to the API's own field, else they go into Qwen-Agent's prompt.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from qwen_agent.agents import FnCallAgent
from qwen_agent.tools.base import BaseTool, register_tool

CALLS: list[Any] = []


@register_tool("get_stock")
class GetStock(BaseTool):
    description = "Tells how many pieces of an article are in stock."
    parameters = {  # noqa: RUF012
        "type": "object",
        "properties": {"article": {"type": "string", "description": "name of the article"}},
        "required": ["article"],
    }

    def call(self, params: str | dict[str, Any], **_: Any) -> str:
        CALLS.append(self._verify_json_format_args(params))
        return json.dumps({"in_stock": 4711})


def main() -> None:
    url, how, model, article, *system = sys.argv[1:]
    sampling = {"temperature": 0, "seed": 1, "max_tokens": 200, "use_raw_api": how == "raw"}
    llm = {"model": model, "model_server": url, "api_key": "none", "generate_cfg": sampling}
    agent = FnCallAgent(llm=llm, function_list=["get_stock"], system_message="".join(system))
    question = f"How many pieces of the article '{article}' are in stock?"
    *_, last = agent.run([{"role": "user", "content": question}])
    print(json.dumps({"calls": CALLS, "messages": [dict(one) for one in last]}))


if __name__ == "__main__":
    main()
