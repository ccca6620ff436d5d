"""Conversations in OpenAI's form: what is accepted, what templates get of it, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.runtime.chat import read_conversation, read_messages
from nemotron_deploy.runtime.errors import RequestError
from nemotron_deploy.runtime.guides import Guide

USER = {"role": "user", "content": "Hi"}
CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"a": [1, null]}'},
}


def tool(name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def test_messages_as_templates_take_them() -> None:
    messages = [
        {"role": "developer", "content": "Be brief.", "name": "x"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
        {"role": "tool", "tool_call_id": "2", "content": "5"},
        {"role": "assistant", "reasoning_content": "so", "reasoning": "no", "content": "9"},
        USER,
    ]  # fmt: skip
    function = {"name": "f", "arguments": {"a": [1, None]}}
    assert read_messages(messages) == [
        {"role": "system", "content": "Be brief.", "name": "x"},
        {"role": "user", "content": "a\nb"},
        {
            "role": "assistant", "content": "", "reasoning_content": "hm",
            "tool_calls": [{"type": "function", "function": function, "id": "1"}],
        },
        {"role": "tool", "content": "4", "tool_call_id": "1"},
        {"role": "tool", "content": "5", "tool_call_id": "2"},
        {"role": "assistant", "content": "9", "reasoning_content": "so"},
        USER,
    ]  # fmt: skip


def test_arguments_may_be_an_object_already() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    (message,) = read_messages([{"role": "assistant", "tool_calls": [call]}])
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ({}, "messages must be a list"),
        ([], "messages is empty"),
        (["x"], r"messages\[0\] must be an object"),
        ([{"content": "x"}], r"messages\[0\].role must be one of system, .* got None"),
        ([{"role": "robot", "content": "x"}], "got 'robot'"),
        ([{"role": "user"}], r"messages\[0\].content must be a text"),
        ([USER, {"role": "user", "content": 1}], r"messages\[1\].content must be a text"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            r"messages\[0\].content\[0\] has the type 'image_url'",
        ),
        ([{"role": "user", "content": ["x"]}], "has the type None"),
        ([{"role": "tool", "content": "x"}], r"messages\[0\]: a tool message must follow"),
        ([USER, {"role": "tool", "content": "x"}], r"messages\[1\]: a tool message must follow"),
        ([{"role": "assistant", "reasoning_content": 1}], "reasoning_content must be a text"),
        ([{"role": "assistant", "tool_calls": {"a": 1}}], "tool_calls must be a list"),
        ([{"role": "assistant", "tool_calls": ["x"]}], r"tool_calls\[0\] must be an object with"),
        ([{"role": "assistant", "function_call": {}}], "function_call is not supported"),
        *(
            (
                [USER, {"role": "assistant", "tool_calls": [
                    CALL, {"function": {"name": "f", "arguments": arguments}}
                ]}],
                r"messages\[1\].tool_calls\[1\].function.arguments must be a JSON object",
            )
            for arguments in ("{", "[1]", "", "[" * 10**5, None, 1)
        ),
    ],
)  # fmt: skip
def test_refused_messages_are_named(messages: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_messages(messages)


def test_tools_are_rendered_and_parsed_with_their_schemas() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    nothing = {"type": "object", "properties": {}}
    tools = [tool("f", description="Adds.", parameters=schema, strict=True), tool("g")]
    conversation, guide = read_conversation([USER], tools, None, None)
    assert conversation.tools == [
        tool("f", description="Adds.", parameters=schema),
        tool("g", parameters=nothing),
    ]
    assert conversation.schemas == {"f": schema, "g": nothing}
    assert guide is None


@pytest.mark.parametrize(
    ("choice", "shown", "called"),
    [
        (None, True, ()),
        ("auto", True, ()),
        ("none", False, ()),
        ("required", True, ("f", "g")),
        ({"type": "function", "function": {"name": "g"}}, True, ("g",)),
    ],
)
def test_tool_choices(choice: Any, shown: bool, called: tuple[str, ...]) -> None:
    """`none` keeps the tools from the prompt, and their markers in the content."""
    conversation, guide = read_conversation([USER], [tool("f"), tool("g")], choice, None)
    assert bool(conversation.tools) is bool(conversation.schemas) is shown
    demanded = {name: conversation.schemas[name] for name in called}
    several = choice == "required"
    assert guide == (Guide("tool_choice", tools=demanded, several=several) if called else None)


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        ({}, "required", "tool_choice needs tools"),
        ([], {"type": "function", "function": {"name": "f"}}, "tool_choice needs tools"),
        ({"a": 1}, None, "tools must be a list"),
        (["f"], None, r"tools\[0\] must be an object"),
        ([{"type": "web_search"}], None, r'tools\[0\] must be an object whose "type" is function'),
        ([{"type": "function"}], None, r"tools\[0\].function must be an object"),
        ([tool(), {"function": {}}], None, r"tools\[1\].function.name must have"),
        ([tool("a b")], None, "got 'a b'"),
        ([tool("a>")], None, "letters, digits"),
        ([tool(), tool()], None, "the name 'f' is given twice"),
        ([tool(description=1)], None, "description must be a text"),
        ([tool(parameters=[])], None, "parameters must be the schema of an object"),
        ([tool(parameters={"properties": []})], None, "must be the schema of an object"),
        ([tool()], "any", "tool_choice must be one of auto, none, required"),
        ([tool()], {"type": "tool"}, "tool_choice must be one of"),
        ([tool()], {"type": "function", "function": {"name": "g"}}, "names the function 'g'; the"),
    ],
)
def test_refused_tools_are_named(tools: Any, choice: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_conversation([USER], tools, choice, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "chat_template_kwargs must be an object"),
        ({"messages": []}, "chat_template_kwargs must not hold 'messages'"),
        ({"bos_token": "x"}, "must not hold 'bos_token'"),
        ({"enable_thinking": "no"}, "enable_thinking must be true or false"),
    ],
)
def test_refused_template_arguments_are_named(arguments: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_conversation([USER], None, None, arguments)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8)
    | st.sampled_from(["user", "assistant", "tool", "function", "text", "f"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["role", "content", "type", "text", "tool_calls", "function", "name", "arguments"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(messages=_JSON, tools=_JSON, choice=_JSON, arguments=_JSON)
def test_any_json_is_a_conversation_or_one_error(
    messages: Any, tools: Any, choice: Any, arguments: Any
) -> None:
    try:
        conversation, _ = read_conversation([messages, USER], [tools], choice, arguments)
    except RequestError as error:
        assert "\n" not in str(error)
        return
    json.dumps([conversation.messages, conversation.tools, conversation.template_arguments])
