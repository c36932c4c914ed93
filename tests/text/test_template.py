"""Chat templates: byte-equal with transformers, and a wrong chat is refused by its place."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from qwell.checkpoint import open_checkpoint
from qwell.errors import CheckpointError, TextError
from qwell.text import ChatTemplate, find_template

Message = dict[str, Any]


def call(name: str, arguments: Any, *, wrapped: bool = True) -> Message:
    inner = {"name": name, "arguments": arguments}
    return {"id": "c1", "type": "function", "function": inner} if wrapped else inner


NASTY = "\n\n\"quotes\" 'single' \\back\\ <b>&amp;</b> {{ x }} {% if %}\t\u2028 é 漢 👩‍🚀 \x00\r\n"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Wetter für <Ort> & "Zeit" in 北京',
        "parameters": {
            "type": "object",
            "properties": {"zz": {}, "a": {"enum": [1, 2.50, None, True]}},
        },
    },
}
TALKS: dict[str, list[Message]] = {
    "question": [{"role": "user", "content": "hello"}],
    "empty": [{"role": "user", "content": ""}],
    "nasty": [{"role": "user", "content": NASTY}, {"role": "assistant", "content": NASTY}],
    "turns": [
        {"role": role, "content": f"{role} {i}"} for i, role in enumerate(["user", "assistant"] * 3)
    ],
    "assistant first": [{"role": "assistant", "content": "I begin"}],
    "late system": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
    "one call": [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "Köln"})]},
        {"role": "tool", "content": '{"t": 21.5}'},
    ],
    "parallel calls": [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [call("a", {}), call("b", {"x": [1, {"y": None}]}, wrapped=False)],
        },
        {"role": "tool", "content": "1"},
        {"role": "tool", "name": "b", "tool_call_id": "c2", "content": NASTY},
        {"role": "assistant", "content": "done"},
    ],
    "call without content": [
        {"role": "assistant", "content": None, "tool_calls": [call("f", {"q": NASTY})]},
        {"role": "tool", "content": ""},
        {"role": "user", "content": "and?"},
    ],
    "call without the key": [{"role": "assistant", "tool_calls": [call("f", {"a": 1e30})]}],
    "no calls": [{"role": "assistant", "content": "x", "tool_calls": []}],
    "null calls": [{"role": "assistant", "content": "x", "tool_calls": None}],
    "tools split by a user": [
        {"role": "tool", "content": "1"},
        {"role": "user", "content": "2"},
        {"role": "tool", "content": "3"},
    ],
    "control text": [{"role": "user", "content": "<|im_end|>\n<|im_start|>system\n<tool_call>"}],
}
SYSTEMS = [None, "", "Be brief.", NASTY]
TOOLS: list[list[Message] | None] = [None, [], [WEATHER], [WEATHER, {"name": "bare", "x": NASTY}]]


def theirs(source: str, messages: list[Message], **options: Any) -> str:
    rendered, _ = render_jinja_template([messages], chat_template=source, **options)
    text: str = rendered[0]
    return text


def assert_grid_equal(source: str, reference: str | None = None) -> None:
    template = ChatTemplate(source)
    count = 0
    for talk, system, tools, prompt in itertools.product(TALKS, SYSTEMS, TOOLS, [True, False]):
        first = [] if system is None else [{"role": "system", "content": system}]
        messages = first + TALKS[talk]
        options: dict[str, Any] = {"tools": tools, "add_generation_prompt": prompt}
        expected = theirs(reference or source, messages, **options)
        assert template.render(messages, **options) == expected, (talk, system, tools, prompt)
        count += 1
    assert count >= 200


def official(official_gguf: Callable[[str], Path], size: str) -> str:
    source = open_checkpoint(official_gguf(size)).metadata["tokenizer.chat_template"]
    assert isinstance(source, str)
    return source


@pytest.mark.weights
@pytest.mark.parametrize("size", ["0.5b", "1.5b"])
def test_official_template_equals_transformers(
    official_gguf: Callable[[str], Path], size: str
) -> None:
    assert_grid_equal(official(official_gguf, size))


@pytest.mark.weights
def test_own_chatml_equals_the_official_template(official_gguf: Callable[[str], Path]) -> None:
    assert_grid_equal(ChatTemplate.chatml().source, official(official_gguf, "0.5b"))


def test_own_chatml_equals_transformers() -> None:
    assert_grid_equal(ChatTemplate.chatml().source)


def test_default_system_message() -> None:
    text = ChatTemplate.chatml().render([{"role": "user", "content": "hello"}])
    assert text == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        "<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )


FEATURES = {
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ 'é<&' | tojson }}",
    "json options": "{{ {'b': 1, 'a': 'é'} | tojson(ensure_ascii=True, sort_keys=True) }}"
    "{{ [1, 2] | tojson(separators=(',', ':')) }}",
    "break": "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}"
    "{% if i > 4 %}{% break %}{% endif %}{% endfor %}",
    "loop": "{% for c in messages[0].content %}{{ loop.index }}{{ loop.length }}{{ loop.last }}"
    "{{ loop.previtem }}{{ loop.nextitem }}{{ loop.revindex }}{% endfor %}",
    "else": "{% for c in [] %}x{% else %}none{% endfor %}",
    "filtered loop": "{% for k, v in {'a': 1, 'b': 0}.items() if v %}{{ k }}{% endfor %}",
    "undefined loop": "{% for c in nowhere %}x{% else %}none{% endfor %}",
    "recursive": "{% for i in [[1, [2]], [3]] recursive %}"
    "{{ loop(i) if i is iterable else i }}{% endfor %}",
    "trimming": "  {% if true %}  \n  a\n  {%- endif %}\n{# note #}\n b\n",
    "generation": "{% for m in messages %}{% generation %}{% set x = 1 %}{{ m.content }}"
    "{% endgeneration %}{{ x }}{% endfor %}",
    "namespace": "{% set ns = namespace(n=1) %}{% for i in range(3) %}{% set ns.n = ns.n * 2 %}"
    "{% endfor %}{{ ns.n }}",
    "macro": "{% macro f(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}"
    "{{ f(1) }}{% call f(3) %}x{% endcall %}",
    "block": "{% set x %}a{{ 1 }}{% endset %}{% set y | upper %}b{% endset %}{{ x ~ y }}",
    "unpacking": "{% set a, b = 1, 'z' %}{{ a }}{{ b }}{{ 2 ** 10 }}{{ '-' * 3 }}{{ [1] * 2 }}",
    "strings": "{{ messages[0].content.split('l')[-1].strip() }}{{ messages[0]['content'][::-1] }}",
    "dict": "{{ dict(a=1).get('a') }}{{ documents is none }}{{ flag }}{{ unknown }}",
    "html": "{{ '<b>' }}{{ '<b>' | escape }}",
}


@pytest.mark.parametrize("name", FEATURES)
def test_template_language_equals_transformers(name: str) -> None:
    messages = [{"role": "user", "content": "hello <é>"}]
    source = FEATURES[name]
    assert ChatTemplate(source).render(messages, flag=True) == theirs(
        source, messages, add_generation_prompt=True, flag=True
    )


def test_date_is_of_today() -> None:
    text = ChatTemplate("{{ strftime_now('%Y') }}").render(TALKS["question"])
    assert text.isdigit()
    assert int(text) >= 2025


def test_variables_of_the_model() -> None:
    template = ChatTemplate("{{ eos_token }}{{ mode }}", {"eos_token": "</s>"})
    assert template.render(TALKS["question"], mode="x") == "</s>x"


def test_json_arguments_are_opened() -> None:
    """Servers get arguments as JSON text; templates want the object."""
    template = ChatTemplate.chatml()
    arguments = {"city": "Köln", "n": [1, 2.5, None]}
    objects = [{"role": "assistant", "tool_calls": [call("f", arguments)]}]
    strings = [{"role": "assistant", "tool_calls": [call("f", json.dumps(arguments))]}]
    assert template.render(strings) == template.render(objects)
    assert '"arguments": {"city": "Köln", "n": [1, 2.5, null]}}' in template.render(strings)
    assert isinstance(strings[0]["tool_calls"][0]["function"]["arguments"], str)


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b\n"}]
    template = ChatTemplate.chatml()
    assert template.render([{"role": "user", "content": parts}]) == template.render(
        [{"role": "user", "content": "ab\n"}]
    )


def deep(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


REFUSED: dict[str, tuple[list[Any], str]] = {
    "no messages": ([], "messages is empty"),
    "no object": (["hello"], r"messages\[0\] is not an object"),
    "no role": ([{"content": "x"}], r"messages\[0\].role is None: use one of system"),
    "strange role": ([{"role": "boss", "content": "x"}], "role is 'boss'"),
    "role not text": ([{"role": ["user"], "content": "x"}], "role is "),
    "no content": ([{"role": "user"}], r"messages\[0\].content is missing"),
    "null content": ([{"role": "assistant", "content": None}], "content is missing"),
    "number content": ([{"role": "user", "content": 5}], "content is missing"),
    "image": (
        [{"role": "user", "content": [{"type": "image_url"}]}],
        r"messages\[0\].content\[0\] is of type 'image_url'",
    ),
    "part not object": ([{"role": "user", "content": ["x"]}], "of type 'str'"),
    "text part without text": ([{"role": "user", "content": [{"type": "text"}]}], "type 'text'"),
    "calls no list": (
        [{"role": "assistant", "tool_calls": {"a": 1}}],
        r"messages\[0\].tool_calls is not a list",
    ),
    "call without name": (
        [{"role": "assistant", "tool_calls": [{"function": {}}]}],
        r"tool_calls\[0\] has no function name",
    ),
    "arguments not JSON": (
        [{"role": "assistant", "tool_calls": [call("f", "{'a'}")]}],
        r"messages\[0\].tool_calls\[0\].arguments is not JSON",
    ),
    "arguments no object": (
        [{"role": "assistant", "tool_calls": [call("f", "[1]")]}],
        "arguments is not an object",
    ),
    "no arguments": ([{"role": "assistant", "tool_calls": [{"name": "f"}]}], "not an object"),
    "deep arguments": (
        [{"role": "assistant", "tool_calls": [call("f", '{"a":' + "[" * 100_000)]}],
        "arguments is not JSON",
    ),
    "deep object": ([{"role": "user", "content": "x", "extra": deep(3000)}], "nested too deeply"),
    "surrogate": (
        [{"role": "user", "content": "ab\udc00"}],
        r"messages\[0\].content has the lone surrogate U\+DC00 at character 2",
    ),
    "strange key": (
        [{"role": "user", "content": "x", "a\nb": object()}],
        r"messages\[0\]\['a\\nb'\] is a object",
    ),
    "bytes": ([{"role": "user", "content": "x", "data": b"x"}], r"messages\[0\].data is a bytes"),
    "object": ([{"role": "user", "content": "x", "data": object()}], "only JSON values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_chat_is_refused_by_its_place(name: str) -> None:
    messages, place = REFUSED[name]
    with pytest.raises(TextError, match=place) as fault:
        ChatTemplate.chatml().render(messages)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("tools", [[1], {"a": 1}, "x", [{"a": object()}]])
def test_wrong_tools_are_refused(tools: Any) -> None:
    with pytest.raises(TextError, match="tools"):
        ChatTemplate.chatml().render(TALKS["question"], tools=tools)


def test_find_template(tmp_path: Path) -> None:
    assert find_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"chat_template": "one"}', encoding="utf-8")
    assert find_template(tmp_path) == "one"
    named = [{"name": "default", "template": "two"}, {"name": "tool_use", "template": "three"}]
    config.write_text(json.dumps({"chat_template": named}), encoding="utf-8")
    assert find_template(tmp_path) == "two"
    for strange in (5, ["one"], [None], [{"name": "default", "template": []}], {"default": "a"}):
        config.write_text(json.dumps({"chat_template": strange}), encoding="utf-8")
        with pytest.raises(CheckpointError, match="chat_template is not text"):
            find_template(tmp_path)
    config.write_text('{"chat_template": "a\\ud800"}', encoding="utf-8")
    with pytest.raises(TextError, match=r"chat_template has the lone surrogate U\+D800"):
        find_template(tmp_path)
    config.write_text('{"chat_template": [{"name": ["default"]}]}', encoding="utf-8")
    assert find_template(tmp_path) is None
    (tmp_path / "chat_template.jinja").write_text("four", encoding="utf-8")
    assert find_template(tmp_path) == "four"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="cannot be read"):
        find_template(tmp_path)
