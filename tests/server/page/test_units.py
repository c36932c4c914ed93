"""The page's pure modules, tested by node; and the tie between its table of fields and ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from qwell.server.fields import Either, Flag, Free, Many, Mapped, Number, Record, Text, Whole
from qwell.server.page_files import page_files
from qwell.server.requests import ChatRequest, Extra
from tests.server.page.conftest import program

HERE = Path(__file__).parent
PAGE = Path(__file__).parents[3] / "src/qwell/server/page"
# Fields the page has no row for: what it does with them itself, and those without effect.
ELSEWHERE = {
    *("messages", "model", "stream", "stream_options", "qwell", "logprobs"),
    *("tools", "tool_choice", "parallel_tool_calls", "response_format", "structured_outputs"),
    *("max_completion_tokens", "user", "metadata", "store", "service_tier"),
}


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program("node"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_pure_modules() -> None:
    units = sorted(str(path) for path in (HERE / "unit").glob("*.test.mjs"))
    assert len(units) == 5
    done = node("--test", "--test-reporter=tap", *units)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "\n# fail 0\n" in done.stdout
    assert "\n# skipped 0\n" in done.stdout


def page_fields() -> dict[str, Any]:
    source = f"import {{ FIELDS }} from {json.dumps(str(PAGE / 'js/chat/fields.mjs'))};"
    done = node("--input-type=module", "-e", f"{source} console.log(JSON.stringify(FIELDS))")
    assert done.returncode == 0, done.stderr
    return {field["name"]: field for field in json.loads(done.stdout)}


def rules(of: type) -> dict[str, Any]:
    return {name: field.metadata["rule"] for name, field in of.__dataclass_fields__.items()}


KINDS: dict[type, set[str]] = {
    Number: {"number"},
    Whole: {"whole", "seed"},
    Flag: {"flag"},
    Many: {"ids"},
    Either: {"lines"},
    Mapped: {"json"},
    Free: {"json"},
}


def test_the_panel_has_every_field_of_the_server_with_its_range() -> None:
    found = page_fields()
    server = {name: rule for name, rule in rules(ChatRequest).items() if name not in ELSEWHERE}
    server["deadline_s"] = rules(Extra)["deadline_s"]
    assert set(found) == set(server)
    for name, rule in server.items():
        assert not isinstance(rule, Text | Record)
        assert found[name]["kind"] in KINDS[type(rule)], name
        if isinstance(rule, Number | Whole) and found[name]["kind"] != "seed":
            low = 1 if name == "max_tokens" else rule.low  # a chat takes no 0
            assert (found[name]["min"], found[name]["max"]) == (low, rule.high), name


def test_every_file_of_the_page_is_served_with_its_type() -> None:
    served = page_files()
    paths = {f"/{p.relative_to(PAGE).as_posix()}" for p in PAGE.rglob("*") if p.is_file()}
    assert set(served) == {*paths, "/"}
    for path, response in served.items():
        kind = response.headers["content-type"]
        expected = "text/javascript" if path.endswith(("js", ".mjs")) else None
        assert expected is None or kind.startswith(expected), (path, kind)
        policy = response.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy


def test_no_module_makes_elements_of_text() -> None:
    """The policy forbids it when it runs; this forbids it before."""
    banned = (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    )
    for path in PAGE.rglob("*.mjs"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("//")]
        for word in banned:
            assert word not in "\n".join(lines), f"{word} in {path.name}"


def test_the_files_are_of_a_readable_size() -> None:
    for path in PAGE.rglob("*.mjs"):
        assert len(path.read_text().splitlines()) <= 400, path.name
