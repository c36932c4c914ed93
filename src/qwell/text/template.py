"""Messages and tools -> the text a model was trained to read, by the model's own chat template.

Messages are checked and copied to plain data first, so a template sees what Hugging Face's would,
and a wrong message is refused by its place. jinja2 is imported when the first chat is rendered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwell.errors import CheckpointError, TextError
from qwell.text.tokenizer import check_unicode
from qwell.text.vocabulary import read_json

if TYPE_CHECKING:
    from jinja2 import Template

ROLES = ("system", "user", "assistant", "tool")


class ChatTemplate:
    """A chat template and the variables it may read (`eos_token` and the like)."""

    def __init__(self, source: str, variables: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._variables = dict(variables or {})

    @classmethod
    def chatml(cls) -> ChatTemplate:
        """Qwen2.5's format, for a model file that brings no template."""
        return cls(files("qwell.text").joinpath("chatml.jinja").read_text(encoding="utf-8"))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **extra: Any,
    ) -> str:
        """The chat as text, byte for byte what transformers renders.

        A message is {"role", "content"}: content is text, a list of {"type": "text", "text": ...},
        or None beside tool_calls, whose arguments are an object or its JSON. `extra` is passed to
        the template. Raises TextError naming the message, or saying what the template refuses.
        """
        return self.run(chat_values(messages, tools, add_generation_prompt, extra))

    def run(self, values: Mapping[str, Any]) -> str:
        """The output for values that `chat_values` made."""
        from qwell.text import sandbox

        return sandbox.render(self._template, self._variables | dict(values))

    def check(self) -> None:
        """Compiles the template, which else happens when it is first used. Raises TextError."""
        _ = self._template

    @cached_property
    def _template(self) -> Template:
        from qwell.text import sandbox

        return sandbox.compile_template(self.source)


def find_template(folder: Path) -> str | None:
    """Source of the chat template of a checkpoint folder: chat_template.jinja, else the key
    chat_template of tokenizer_config.json (the entry "default" of a list); None without either.
    Raises CheckpointError, TextError for a lone surrogate."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
    path = folder / "tokenizer_config.json"
    found = read_json(path).get("chat_template") if path.exists() else None
    if isinstance(found, list) and _is_list_of_objects(found):
        defaults = [entry.get("template") for entry in found if entry.get("name") == "default"]
        found = defaults[-1] if defaults else None
    if found is not None and not isinstance(found, str):
        raise CheckpointError(f"{path}: chat_template is not text")
    check_unicode(found or "", f"{path}: chat_template")
    return found


def chat_values(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """What a template sees: JSON values only, checked. Raises TextError naming the place."""
    if not messages:
        raise TextError("messages is empty: give at least one message")
    if tools is not None and not _is_list_of_objects(tools):
        raise TextError("tools is not a list of objects")
    values = {
        "documents": None,
        **extra,
        "messages": [_message(m, f"messages[{i}]") for i, m in enumerate(messages)],
        "tools": tools,
        "add_generation_prompt": add_generation_prompt,
    }
    return {key: _plain(value, key) for key, value in values.items()}


def _message(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """One message with its content as text and the arguments of its calls as objects."""
    if not isinstance(raw, Mapping):
        raise TextError(f"{where} is not an object")
    if raw.get("role") not in ROLES:
        raise TextError(f"{where}.role is {raw.get('role')!r:.40}: use one of {', '.join(ROLES)}")
    message, calls = dict(raw), raw.get("tool_calls")
    if calls is not None:
        message["tool_calls"] = _tool_calls(calls, f"{where}.tool_calls")
    if "content" in raw or not calls:
        message["content"] = _content(raw.get("content"), f"{where}.content", bool(calls))
    return message


def _content(content: Any, where: str, may_be_none: bool) -> str | None:
    if isinstance(content, str) or (content is None and may_be_none):
        return content
    if not isinstance(content, Sequence):
        raise TextError(f"{where} is missing: give text or a list of text parts")
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise TextError(f"{where}[{i}] is of type {kind!r}: only text parts are supported")
    return "".join(part["text"] for part in content)


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Calls with their arguments as objects: a template would quote a JSON string once more."""
    if not _is_list_of_objects(calls):
        raise TextError(f"{where} is not a list of objects")
    opened = []
    for i, call in enumerate(calls):
        inner = call.get("function", call)
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise TextError(f"{where}[{i}] has no function name")
        inner = dict(inner) | {"arguments": _arguments(inner.get("arguments"), f"{where}[{i}]")}
        opened.append({**call, "function": inner} if "function" in call else inner)
    return opened


def _arguments(arguments: Any, where: str) -> Any:
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError) as error:
        raise TextError(f"{where}.arguments is not JSON: {error}") from error
    if not isinstance(arguments, Mapping):
        raise TextError(f"{where}.arguments is not an object")
    return arguments


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(item, Mapping) for item in value)


def _plain(value: Any, where: str) -> Any:
    """A copy out of JSON's types alone, so a template meets no object with methods of its own."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        check_unicode(value, where)
        return str.__str__(value)
    try:
        if isinstance(value, Mapping):
            return {_plain(k, where): _plain(item, _inside(where, k)) for k, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    except RecursionError as error:
        raise TextError(f"{where[:40]}... is nested too deeply") from error
    raise TextError(f"{where} is a {type(value).__name__}: only JSON values are allowed")


def _inside(where: str, key: Any) -> str:
    """The place of a key, on one line whatever the key holds."""
    plain = isinstance(key, str) and key.isidentifier() and len(key) < 40
    return f"{where}.{key}" if plain else f"{where}[{key!r:.40}]"
