"""Stock clients against a real server: lm-eval over the official 0.5B, qwen-agent.

Each runs in an environment of its own under build/clients, built once from its package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwell.engine.load import load
from tests.server.live import Live, live, says

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
from environments import python_of  # noqa: E402

pytestmark = pytest.mark.slow

CAPITALS = {
    "France": "Paris",
    "Japan": "Tokyo",
    "Italy": "Rome",
    "Egypt": "Cairo",
    "Spain": "Madrid",
    "Russia": "Moscow",
    "Germany": "Berlin",
    "Greece": "Athens",
}
CHOICE = """\
task: qwell_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""
CHAT = """\
task: qwell_chat
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "What is the capital of {{{{country}}}}? Answer with one word."
doc_to_target: "{{{{city}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, temperature: 0}}
filter_list:
  - name: word
    filter: [{{function: regex, regex_pattern: "([A-Za-z]+)"}}, {{function: take_first}}]
metric_list: [{{metric: exact_match}}]
"""


def python(name: str) -> str:
    return python_of(name, ROOT / "build" / "clients")


def run(command: list[str], folder: Path) -> str:
    env = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    env |= {"HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=env, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two tasks of lm-eval over a local file."""
    cities = list(CAPITALS.values())
    rows = [
        {"country": country, "city": city, "choices": cities, "answer": i}
        for i, (country, city) in enumerate(CAPITALS.items())
    ]
    data = tmp_path / "capitals.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    for name, text in (("choice", CHOICE), ("chat", CHAT)):
        (tmp_path / f"{name}.yaml").write_text(text.format(data=data))
    return tmp_path


def evaluate(server: Live, tasks: Path, model: str, path: str, task: str, *more: str) -> Any:
    """What lm-eval found, and its samples."""
    arguments = f"model={server.app.served.name},base_url={server.url}{path},num_concurrent=4"
    command = [python("lm-eval"), "-m", "lm_eval", "--model", model, "--model_args", arguments]
    command += ["--tasks", task, "--include_path", str(tasks), "--output_path", "out"]
    run([*command, "--log_samples", *more], tasks)
    [told] = (tasks / "out").rglob("results_*.json")
    [samples] = (tasks / "out").rglob("samples_*.jsonl")
    results = json.loads(told.read_text())["results"][task]
    return results, [json.loads(line) for line in samples.read_text().splitlines()]


@pytest.mark.weights
def test_lm_eval_scores_choices_as_the_model_does(real: Live, tasks: Path) -> None:
    """Its sums of log-probabilities are those of LLM.logprobs; ids, lists, echo and the server's
    own tokenizer are used without any option."""
    results, samples = evaluate(real, tasks, "local-completions", "/v1/completions", "qwell_choice")
    assert results["acc,none"] >= 0.75
    assert len(samples) == len(CAPITALS)
    llm = real.app.served.llm
    assert real.idle()  # the service does not step: the model is ours
    for sample in samples:
        prompt = f"The capital of {sample['doc']['country']} is"
        start = len(llm.tokenizer.encode(prompt))
        for choice, [told] in zip(sample["doc"]["choices"], sample["resps"], strict=True):
            ids = llm.tokenizer.encode(f"{prompt} {choice}")
            want = float(np.sum(llm.logprobs(ids)[start:]))
            assert float(told[0]) == pytest.approx(want, abs=1e-4)


@pytest.mark.weights
def test_lm_eval_chats(real: Live, tasks: Path) -> None:
    results, samples = evaluate(
        real,
        tasks,
        "local-chat-completions",
        "/v1/chat/completions",
        "qwell_chat",
        "--apply_chat_template",
    )
    assert len(samples) == len(CAPITALS)
    assert results["exact_match,word"] >= 0.75


def ask_agent(server: Live, folder: Path, *how: str) -> Any:
    """What Qwen-Agent did to tell how many pieces of an article there are; see agent.py."""
    script = str(Path(__file__).parent / "agent.py")
    name, rest = server.app.served.name, how[1:]
    command = [python("qwen-agent"), script, f"{server.url}/v1", how[0], name, *rest]
    return json.loads(run(command, folder).splitlines()[-1])


@pytest.mark.parametrize("how", ["raw", "prompt"])
def test_an_agent_uses_its_tool(how: str, tmp_path: Path) -> None:
    """Qwen-Agent reads the call of a model that writes one, runs its tool, and the model is told
    what came of it. Tools go through the API's own field, or through Qwen-Agent's prompt."""
    call = '<tool_call>\n{"name": "get_stock", "arguments": {"article": "lamp"}}\n</tool_call>'
    seen: list[str] = []
    with live(says(f"Let me see.\n{call}", "There are 4711 lamps.", seen=seen)) as server:
        found = ask_agent(server, tmp_path, how, "lamp")
    assert found["calls"] == [{"article": "lamp"}]
    assert [message["role"] for message in found["messages"]][-2:] == ["function", "assistant"]
    assert "There are 4711 lamps." in str(found["messages"][-1]["content"])
    assert "get_stock" in seen[0] and '"in_stock": 4711' in seen[-1]


ONCE = "Call a tool at most once. After <tool_response> answer in words and never call a tool."


@pytest.mark.weights
@pytest.mark.parametrize("article", ["lamp", "chair"])
def test_a_real_model_calls_the_tool_of_an_agent(
    official_gguf: Callable[[str], Path], article: str, tmp_path: Path
) -> None:
    """The 1.5B Coder, greedy, tools in Qwen-Agent's prompt. Its token <tool_call> is untrained:
    told of it in the API's way it writes its call into a ```json fence; here it spells the tag."""
    llm = load(str(official_gguf("1.5b")), ctx=4096)
    with live(llm) as server:
        found = ask_agent(server, tmp_path, "prompt", article, ONCE)
    assert found["calls"] == [{"article": article}]
    assert [message["role"] for message in found["messages"]][-2:] == ["function", "assistant"]
    assert "4711" in str(found["messages"][-1]["content"])
