"""A chat template is a foreign program: what it may do, and that it cannot run on for ever."""

from __future__ import annotations

import time

import pytest

from qwell.errors import TextError
from qwell.text import ChatTemplate, sandbox

CHAT = [{"role": "user", "content": "hi"}]

REFUSED = {
    "not a template": ("{% if", "not valid at line 1"),
    "unknown tag": ("a\n{% import_all %}", "not valid at line 2"),
    "too long": ("x" * (sandbox.MAX_SOURCE + 1), "more than 262,144 characters"),
    "own refusal": ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
    "changes the chat": ("{{ messages.append(1) }}", "unsafe"),
    "looks behind": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "calls code": ("{{ raise_exception.__globals__.x }}", "unsafe"),
    "hidden namespace": ("{% set ns = namespace(_a=1) %}", "cannot hold the name '_a'"),
    "hidden attribute": ("{% set ns = namespace() %}{% set ns._a = 1 %}", "the name '_a'"),
    "includes a file": ("{% include 'a.jinja' %}", "no loader"),
    "wrong type": ("{{ 'a' + 1 }}", "refuses this chat"),
    "not for JSON": ("{{ range | tojson }}", "not JSON serializable"),
    "no such thing": ("{{ nothing.at.all }}", "undefined"),
    "long range": ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    "deep recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "too deeply"),
    "large product": ("{{ 'ab' * 10**9 }}", "larger than"),
    "large power": ("{{ 2 ** 65 }}", "power 65 is too large"),
}

ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "one list": "{% set r = range(99999) %}"
    "{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "recursive loop": "{% for i in [1, 2] recursive %}"
    "{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
}

GROWING = {
    "sum": "{% set ns.s = ns.s + ns.s %}",
    "join": "{% set ns.s = ns.s ~ ns.s %}",
    "block": "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}",
    "list": "{% set ns.s = ns.s.split('') if 0 else [ns.s] + [ns.s] %}{% set ns.s = ns.s | join %}",
    "number": "{% set ns.s = (ns.s | length) ** 64 if i == 0 else ns.s ** 64 %}",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str) -> None:
    source, message = REFUSED[name]
    with pytest.raises(TextError, match=message) as fault:
        ChatTemplate(source).render(CHAT)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_template_is_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.2)
    start = time.perf_counter()
    with pytest.raises(TextError, match="took longer than"):
        ChatTemplate(ENDLESS[name]).render(CHAT)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("name", GROWING)
def test_growing_value_is_stopped(name: str) -> None:
    source = "{% set ns = namespace(s='ab') %}{% for i in range(99) %}" + GROWING[name]
    with pytest.raises(TextError, match=r"larger than|absurdly large"):
        ChatTemplate(source + "{% endfor %}").render(CHAT)


def test_endless_output_is_stopped() -> None:
    source = "{% for i in range(99999) %}{{ 'abcdefgh' * 1000 }}{% endfor %}"
    with pytest.raises(TextError, match="wrote more than"):
        ChatTemplate(source).render(CHAT)


def test_check_finds_a_bad_template() -> None:
    ChatTemplate("{{ messages }}").check()
    with pytest.raises(TextError, match="not valid"):
        ChatTemplate("{% endif %}").check()


def test_a_render_leaves_no_trace() -> None:
    template = ChatTemplate("{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}")
    assert template.render(CHAT) == template.render(CHAT) == "1"
