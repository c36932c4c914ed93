"""Safe chats: control tokens come from the template alone, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwell.errors import TextError
from qwell.text import ChatTemplate, Tokenizer, encode_chat
from tests.text.ranks import ADDED, SPECIAL, VISIBLE

Message = dict[str, Any]
TEMPLATE = ChatTemplate.chatml()
TOOL = {"type": "function", "function": {"name": "f", "description": "d"}}
FIRST_ADDED = min(ADDED.values())

# Whole spellings, pieces of them, the characters used as markers, and what a template puts around.
PARTS = """<|im_ start|> <| |> < > <tool_ call> im_end | << |im_end|> assistant x é " \\ 0"""
MARKERS = ["\ue000", "\ue001", "\U000f0000"]
pieces = st.sampled_from([*ADDED, *PARTS.split(), *MARKERS, "\n", " "])
hostile = st.lists(pieces, max_size=8).map("".join)
harmless = st.text(st.characters(exclude_categories=["Cs"])).filter(
    lambda text: not any(spelling in text for spelling in ADDED)
)


@st.composite
def chats(
    draw: st.DrawFn, text: st.SearchStrategy[str]
) -> tuple[list[Message], list[Message] | None]:
    """A chat with every place a text can stand in filled from `text`."""
    messages: list[Message] = []
    for role in draw(
        st.lists(
            st.sampled_from(["system", "user", "assistant", "call", "tool"]), min_size=1, max_size=5
        )
    ):
        if role == "call":
            arguments = {draw(text): draw(text), "list": [draw(text)]}
            calls = [{"type": "function", "function": {"name": draw(text), "arguments": arguments}}]
            messages.append({"role": "assistant", "content": draw(text), "tool_calls": calls})
        else:
            messages.append({"role": role, "content": draw(text)})
    tools = [{**TOOL, "note": draw(text), draw(text): 1}] if draw(st.booleans()) else None
    return messages, tools


def emptied(value: Any) -> Any:
    """The same shape with no text in it, but where text and no text are different branches."""
    if isinstance(value, str):
        return "x" if value else ""
    if isinstance(value, dict):
        keep = ("role", "type")
        return {k: v if k in keep else emptied(v) for k, v in value.items()}
    return [emptied(item) for item in value] if isinstance(value, list) else value


def controls(ids: list[int]) -> list[int]:
    return [i for i in ids if i >= FIRST_ADDED]


@settings(max_examples=400, deadline=None)
@given(chat=chats(hostile))
def test_typed_control_tokens_stay_text(
    tokenizer: Tokenizer, chat: tuple[list[Message], list[Message] | None]
) -> None:
    """The special tokens are those of the same chat without any text; the text is unchanged."""
    messages, tools = chat
    ids = encode_chat(tokenizer, TEMPLATE, messages, tools=tools)
    calm = encode_chat(tokenizer, TEMPLATE, emptied(messages), tools=tools and [TOOL])
    special = tokenizer.special_ids
    assert [i for i in ids if i in special] == [i for i in calm if i in special]
    assert tokenizer.decode(ids) == TEMPLATE.render(messages, tools=tools)
    if all(m["role"] != "assistant" for m in messages):
        assert controls(ids) == controls(calm)


@settings(max_examples=200, deadline=None)
@given(chat=chats(harmless))
def test_ordinary_chats_are_the_rendered_string(
    tokenizer: Tokenizer, chat: tuple[list[Message], list[Message] | None]
) -> None:
    messages, tools = chat
    rendered = TEMPLATE.render(messages, tools=tools)
    expected = tokenizer.encode(rendered, allow_special=True)
    assert encode_chat(tokenizer, TEMPLATE, messages, tools=tools) == expected


@settings(max_examples=100, deadline=None)
@given(chat=chats(hostile))
def test_allow_special_is_the_rendered_string(
    tokenizer: Tokenizer, chat: tuple[list[Message], list[Message] | None]
) -> None:
    messages, tools = chat
    rendered = TEMPLATE.render(messages, tools=tools)
    expected = tokenizer.encode(rendered, allow_special=True)
    ids = encode_chat(tokenizer, TEMPLATE, messages, tools=tools, allow_special=True)
    assert ids == expected


def test_known_ids(tokenizer: Tokenizer) -> None:
    ids = encode_chat(tokenizer, TEMPLATE, [{"role": "user", "content": "hello"}])
    head = [151644, 8948, 198, 2610, 525, 1207, 16948, 11, 3465, 553, 54364, 14817, 13]
    tail = [1446, 525, 264, 10950, 17847, 13, 151645, 198, 151644, 872, 198, 14990, 151645, 198]
    assert ids == [*head, *tail, 151644, 77091, 198]


def test_text_around_a_control_token_is_one_string(tokenizer: Tokenizer) -> None:
    """Content that begins with a newline merges with the template's newline, as in training."""
    ids = encode_chat(tokenizer, TEMPLATE, [{"role": "user", "content": "\nhi<|im_end|>"}])
    at = ids.index(872)
    assert ids[at : at + 2] == [872, 271]
    assert ids[at + 3 : at + 9] == tokenizer.encode("<|im_end|>")


@pytest.mark.parametrize("spelling", ADDED)
@pytest.mark.parametrize("role", ["system", "user", "tool", "assistant"])
def test_every_spelling_in_every_role(tokenizer: Tokenizer, spelling: str, role: str) -> None:
    """Text everywhere, but in a reply the tokens a model writes as visible text."""
    messages = [{"role": "user", "content": "q"}, {"role": role, "content": f"a{spelling}b"}]
    ids = encode_chat(tokenizer, TEMPLATE, messages)
    calm = encode_chat(tokenizer, TEMPLATE, emptied(messages))
    added = controls(ids).count(ADDED[spelling]) - controls(calm).count(ADDED[spelling])
    assert added == (1 if role == "assistant" and spelling in VISIBLE else 0)


def test_calls_are_never_control_text(tokenizer: Tokenizer) -> None:
    """Names and arguments of calls stay text in a reply, whatever they spell."""
    evil = "".join([*SPECIAL, *VISIBLE])
    calls = [{"name": evil, "arguments": {evil: evil}}]
    ids = encode_chat(tokenizer, TEMPLATE, [{"role": "assistant", "tool_calls": calls}])
    assert controls(ids)[2:5] == [
        ADDED["<|im_start|>"],
        ADDED["<tool_call>"],
        ADDED["</tool_call>"],
    ]
    assert controls(ids)[5:] == [ADDED["<|im_end|>"], ADDED["<|im_start|>"]]


def test_arguments_may_be_text_or_an_object_and_results_come_back() -> None:
    """As in OpenAI's API and as in the template: the model reads the same."""

    def render(arguments: object) -> str:
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "f", "arguments": arguments},
        }
        return TEMPLATE.render(
            [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_1", "content": "42"},
            ]
        )

    assert render('{"a": "b"}') == render({"a": "b"})
    assert '<tool_call>\n{"name": "f", "arguments": {"a": "b"}}\n</tool_call>' in render({"a": "b"})
    assert "<tool_response>\n42\n</tool_response>" in render({})


@pytest.mark.parametrize("rest", ["|>", "im_start|>", ">", "m_start|>"])
def test_pieces_of_a_spelling_do_not_meet(tokenizer: Tokenizer, rest: str) -> None:
    """Neither two texts a template puts side by side, nor a text and the template itself."""
    first = "<|im_start|>"[: -len(rest)]
    ids = encode_chat(
        tokenizer,
        ChatTemplate("{{ messages[0].content }}{{ messages[1].content }}"),
        [{"role": "user", "content": first}, {"role": "user", "content": rest}],
    )
    assert ids == tokenizer.encode("<|im_start|>")
    trimmed = ChatTemplate("{{ messages[0].content | trim }}{{ messages[1].content | trim }}")
    spaced = [{"role": "user", "content": f" {first}\n"}, {"role": "user", "content": f"\t{rest} "}]
    assert controls(encode_chat(tokenizer, trimmed, spaced)) == []
    before = ChatTemplate("{{ messages[0].content }}" + rest)
    assert controls(encode_chat(tokenizer, before, [{"role": "user", "content": first}])) == []
    after = ChatTemplate(first + "{{ messages[0].content }}")
    assert controls(encode_chat(tokenizer, after, [{"role": "user", "content": rest}])) == []


def test_options_stay_text(tokenizer: Tokenizer) -> None:
    template = ChatTemplate("<|im_start|>{{ note }}{{ messages | length }}")
    ids = encode_chat(tokenizer, template, [{"role": "user", "content": ""}], note="<|im_end|>")
    assert controls(ids) == [ADDED["<|im_start|>"]]


def test_a_template_that_looks_at_spellings_is_refused(tokenizer: Tokenizer) -> None:
    source = "{% if '<|im_end|>' in messages[0].content %}yes{% else %}no{% endif %}"
    template = ChatTemplate(source)
    messages = [{"role": "user", "content": "<|im_end|>"}]
    with pytest.raises(TextError, match="remove the spelling"):
        encode_chat(tokenizer, template, messages)
    assert tokenizer.decode(encode_chat(tokenizer, template, messages, allow_special=True)) == "yes"


def test_the_callers_messages_are_not_touched(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "<|im_end|>"}]
    encode_chat(tokenizer, TEMPLATE, messages, tools=[TOOL])
    assert messages == [{"role": "user", "content": "<|im_end|>"}]


def test_markers_run_out(tokenizer: Tokenizer) -> None:
    every = "".join(
        map(chr, [*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE)])
    )
    with pytest.raises(TextError, match="private-use"):
        encode_chat(tokenizer, TEMPLATE, [{"role": "user", "content": every}])
