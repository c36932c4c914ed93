"""Three formats become the same messages; what is wrong is told with its place."""

from __future__ import annotations

from typing import Any

import pytest

from qwell.data.formats import check_format, detect_format, read_conversation
from qwell.data.records import Record
from qwell.errors import DataError, UsageError

CALL = {"name": "f", "arguments": {"a": 1}}
TOOL = {"type": "function", "function": {"name": "f"}}


def record(value: Any) -> Record:
    return Record(value, "data.jsonl:7")


def chat(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.mark.parametrize(
    ("value", "form", "messages"),
    [
        (
            {"messages": chat(("user", "q"), ("assistant", "a")), "id": 3},
            "messages",
            chat(("user", "q"), ("assistant", "a")),
        ),
        (
            {"conversations": chat(("user", "q"), ("assistant", "a"))},
            "messages",
            chat(("user", "q"), ("assistant", "a")),
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                ],
                "system": "s",
            },
            "sharegpt",
            chat(("system", "s"), ("user", "q"), ("assistant", "a")),
        ),
        (
            {"instruction": "do", "input": "this", "output": "done", "history": [["q", "a"]]},
            "alpaca",
            chat(("user", "q"), ("assistant", "a"), ("user", "do\nthis"), ("assistant", "done")),
        ),
        (
            {"instruction": "do", "input": "", "output": "done", "system": "s"},
            "alpaca",
            chat(("system", "s"), ("user", "do"), ("assistant", "done")),
        ),
    ],
)
def test_formats_are_detected(value: Any, form: str, messages: list[dict[str, Any]]) -> None:
    assert detect_format(record(value)) == form
    found = read_conversation(record(value), form)
    assert found.messages == messages
    assert (found.tools, found.place) == (None, "data.jsonl:7")


def test_tools_and_calls_of_sharegpt() -> None:
    value = {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "4"},
            {"from": "gpt", "value": "four"},
        ],
        "tools": '[{"type": "function", "function": {"name": "f"}}]',
    }
    found = read_conversation(record(value), "sharegpt")
    assert found.tools == [TOOL]
    assert found.messages[1:] == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "four"},
    ]


def test_parquet_empties_are_no_keys() -> None:
    turn = {"role": "assistant", "content": "a", "tool_calls": None, "name": None, "odd": None}
    found = read_conversation(record({"messages": [turn], "tools": None}), "messages")
    assert found.messages == [{"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("value", "form", "what"),
    [
        (
            {"conversations": [{"from": "function_call", "value": "[" * 100_000}]},
            "sharegpt",
            "not the JSON of a call",
        ),
        ({"messages": chat(("user", "q")), "tools": "[" * 100_000}, "messages", "is not JSON"),
        ("text", "messages", "is not an object"),
        ({"messages": "hi"}, "messages", "messages is not a list"),
        ({"text": "hi"}, "messages", "messages is missing"),
        ({"messages": ["hi"]}, "messages", r"messages\[0\] is not an object"),
        ({"messages": [{"role": "user", "txt": "hi"}]}, "messages", r"\[0\] has a key 'txt'"),
        ({"messages": [{"role": "assistant", "weight": 0.5}]}, "messages", "weight is 0.5"),
        ({"conversations": [{"from": "bot", "value": ""}]}, "sharegpt", "from is 'bot'"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, "sharegpt", "value is not text"),
        ({"conversations": [{"from": "gpt", "text": ""}]}, "sharegpt", "has a key 'text'"),
        ({"conversations": [{"from": "function_call", "value": "f("}]}, "sharegpt", "JSON of a c"),
        ({"conversations": [{"from": "gpt", "value": "", "weight": 2}]}, "sharegpt", "weight is 2"),
        ({"instruction": "a"}, "alpaca", "output is missing"),
        ({"instruction": "a", "output": "b", "history": [["c"] * 3]}, "alpaca", "has 3 entries"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "alpaca", r"history\[0\]\[0\]"),
        ({"instruction": "a", "output": "b", "tools": "{"}, "alpaca", "tools is not JSON"),
    ],
)
def test_a_wrong_record_is_told_with_its_place(value: Any, form: str, what: str) -> None:
    with pytest.raises(DataError, match=rf"^data\.jsonl:7: .*{what}.*: mend or remove it$"):
        read_conversation(record(value), form)


def test_an_unknown_format_is_told() -> None:
    with pytest.raises(DataError, match=r"data.jsonl:7: is no conversation .*its keys: text\)"):
        detect_format(record({"text": "a"}))
    with pytest.raises(UsageError, match="format 'xml' is unknown"):
        check_format("xml")
