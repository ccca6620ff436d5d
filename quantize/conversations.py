"""Conversations as people log them, brought into the form that chat templates take.

The form is that of transformers: `role` and `content` as text, arguments of tool calls as mappings.
Each function raises `TextError` saying which message is wrong and why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..runtime.untrusted import brief, require_shallow

_ROLES: Final = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "developer": "system",
}
"""Names of ShareGPT's and OpenAI's logs for the four roles that templates know."""

_KNOWN_ROLES: Final = ("system", "user", "assistant", "tool")

_TEXT_PARTS: Final = ("text", "input_text", "output_text")


_RENDERED_SHARE: Final = 8
"""Templates may leave out earlier reasoning, so they receive more characters than are used."""


class TextError(ValueError):
    """A row has no text that can be used. Says why."""


def conversation(messages: object, longest: int) -> list[dict[str, Any]]:
    """`messages` for a chat template, of which the first `longest` characters will be used.

    Long contents are cut, so that a log of any length can be rendered.
    """
    if not isinstance(messages, list):
        raise TextError(f"must be a list of messages, not {_kind(messages)}")
    turns = [_message(message, f"message {number}") for number, message in enumerate(messages, 1)]
    left = _RENDERED_SHARE * longest
    for turn in turns:
        for key in ("content", "reasoning_content"):
            if isinstance(turn.get(key), str):
                turn[key] = turn[key][: min(longest, left)]
                left -= len(turn[key])
    return turns


def tools_of(fields: Mapping[str, Any]) -> list[Any] | None:
    """The tools of a row: `tools`, as a list or as JSON text, or OpenAI's older `functions`."""
    if functions := _list_of(fields, "functions"):
        return [{"type": "function", "function": function} for function in functions]
    return _list_of(fields, "tools") or None


def _list_of(fields: Mapping[str, Any], key: str) -> list[Any]:
    value = fields.get(key)
    if isinstance(value, str) and value.strip():
        value = _parsed(value, f"`{key}`")
    if not value:
        return []
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise TextError(f"`{key}` must be a list of objects, not {_kind(value)}")
    return value


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise TextError(f"{where} must be an object, not {_kind(message)}")
    fields = dict(message)
    role = fields.pop("from", None)
    role = fields.get("role", role)
    content = fields.pop("value", None)
    content = fields.get("content", content)
    if not isinstance(role, str):
        raise TextError(f"{where} has no `role` (or `from`)")
    if role == "function_call":  # of ShareGPT: the content is the call, or a list of calls
        calls = _parsed(content, where) if isinstance(content, str) else content
        fields["tool_calls"] = calls if isinstance(calls, list) else [calls]
        role, content = "assistant", None
    fields["role"] = _ROLES.get(role, role)
    if fields["role"] not in _KNOWN_ROLES:
        raise TextError(
            f"{where} has the role {brief(role)!r}; known are {', '.join(_KNOWN_ROLES)}"
        )
    fields["content"] = _text(content, where)
    if call := fields.pop("function_call", None):
        fields["tool_calls"] = [call]
    if calls := fields.pop("tool_calls", None):
        fields["tool_calls"] = _calls(calls, where)
    return fields


def _text(content: object, where: str) -> str:
    """The text of a content: text itself, null, or a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise TextError(f"{where} has {_kind(content)} as `content`")
    return "\n".join(_part(part, where) for part in content)


def _part(part: object, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise TextError(f"{where} has {_kind(part)} as part of its `content`")
    kind = part.get("type", "text")
    if kind in _TEXT_PARTS and isinstance(part.get("text"), str):
        return str(part["text"])
    raise TextError(
        f"{where} has a part of type {brief(kind)!r}; this model takes text only: remove the row"
    )


def _calls(calls: object, where: str) -> Sequence[dict[str, Any]]:
    if not isinstance(calls, list):
        raise TextError(f"{where} has {_kind(calls)} as `tool_calls`")
    return [_call(call, f"{where}, tool call {number}") for number, call in enumerate(calls, 1)]


def _call(call: object, where: str) -> dict[str, Any]:
    """One call, its arguments as a mapping: templates iterate over them, and OpenAI logs text."""
    if isinstance(call, dict) and "function" not in call:
        call = {"type": "function", "function": call}
    if not isinstance(call, dict) or not isinstance(call["function"], dict):
        raise TextError(f"{where} must be an object with its `function`")
    arguments = call["function"].get("arguments")
    if isinstance(arguments, str):
        arguments = _parsed(arguments, f"`arguments` of {where}") if arguments.strip() else {}
    if not isinstance(arguments, dict | None):
        raise TextError(f"`arguments` of {where} must be an object, not {_kind(arguments)}")
    return call | {"function": call["function"] | {"arguments": arguments or {}}}


def _parsed(text: str, what: str) -> Any:
    try:
        value = json.loads(text)
        require_shallow(value)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{what} is not JSON: {brief(str(error))}") from error
    return value


def _kind(value: object) -> str:
    if isinstance(value, str):
        return f"the text {brief(value, 30)!r}"
    return brief(value, 30)
