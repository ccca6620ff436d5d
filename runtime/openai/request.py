"""The JSON body of a request to the tensors of the served model.

Only forms are checked here; ranges and conversations are checked by the model, for all its clients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .. import contract
from ..chat import THINKING_SWITCH
from ..contract import Tensor
from ..untrusted import parse_json
from .errors import ApiError, invalid

MAX_CHOICES: Final = 16
"""Most choices of one request, each of which is a request to the model."""

MAX_TIMEOUT_S: Final = 24 * 3600.0

Inputs = Mapping[Tensor, Sequence[Any]]
"""The input tensors of one generation, with their elements."""

Reader = Callable[[Any, str], Sequence[Any]]
"""A field's value to the elements of its tensor. Raises `ApiError` naming the field."""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A checked request. Each of `generations` is one choice; those of one prompt follow each
    other, `choices_per_prompt` in number. `timeout` is in seconds."""

    chat: bool
    generations: tuple[Inputs, ...]
    choices_per_prompt: int
    stream: bool
    include_usage: bool
    timeout: float | None


def read_request(body: bytes, model: str, chat: bool) -> CompletionRequest:
    """The request in a body for `/v1/chat/completions` or, unless `chat`, `/v1/completions`.

    Raises `ApiError`: 404 for another model than `model`, otherwise 400 naming the field.
    """
    fields = _fields(body)
    table = CHAT_FIELDS if chat else TEXT_FIELDS
    _refuse_unknown(fields, {*table, *_COMMON, *(_CHAT_ONLY if chat else _TEXT_ONLY)})
    named = _one(fields, "model", str)
    if named != model:
        raise ApiError(
            404,
            f"the model {named!r} does not exist; this server has {model!r}",
            "model_not_found",
            "model",
        )
    stream = bool(_one(fields, "stream", bool, False))
    prompt = "messages" if chat else "prompt"
    if prompt not in fields:
        raise invalid(f"{prompt} is missing", prompt, "missing_required_parameter")
    inputs: dict[Tensor, Sequence[Any]] = {contract.STREAMING: [stream]}
    for name, (tensor, reader) in table.items():
        if name not in fields:
            continue
        if tensor in inputs:
            raise invalid(f"{name} is given twice, under two names; send one of them", name)
        inputs[tensor] = reader(fields[name], name)
    choices = _choices(fields)
    prompts: Sequence[Inputs] = [{}]
    if chat:
        _apply_effort(fields, inputs)
        inputs |= _logprobs(fields)
    else:
        inputs.setdefault(contract.MAX_TOKENS, [DEFAULT_MAX_TOKENS])
        inputs[contract.RETURN_FINISH_REASON] = [True]
        prompts = _prompts(fields["prompt"])
    if len(prompts) * choices > MAX_CHOICES:
        raise invalid(f"a request has at most {MAX_CHOICES} choices, prompts times n", "n")
    generations = tuple(
        _with_seed({**inputs, **prompt}, number) for prompt in prompts for number in range(choices)
    )
    return CompletionRequest(
        chat, generations, choices, stream, _include_usage(fields, stream), _timeout(fields)
    )


DEFAULT_MAX_TOKENS: Final = 16
"""OpenAI's default of `/v1/completions`. An answer to a conversation may fill the context."""


def _fields(body: bytes) -> dict[str, Any]:
    """The fields that are given; null means that one is not."""
    try:
        value = parse_json(body)
    except ValueError as error:
        raise invalid(f"the body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object", code="invalid_json")
    return {name: field for name, field in value.items() if field is not None}


def _refuse_unknown(fields: Mapping[str, Any], meant: set[str]) -> None:
    """Raise for a field that is none of those with a meaning here and is not ignored."""
    known = {*meant, *_FIXED, *IGNORED_FIELDS}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise invalid(
            f"unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}",
            unknown[0],
            "unknown_parameter",
        )
    for name, only in _FIXED.items():
        if name in fields and fields[name] != only:
            raise invalid(
                f"{name}: this server supports {json.dumps(only)} only",
                name,
                "unsupported_value",
            )


def _one(fields: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """The value of a field of one type; required unless there is a default."""
    value = fields.get(name, default)
    if value is None:
        raise invalid(f"{name} is missing", name, "missing_required_parameter")
    if type(value) is not kind:
        raise invalid(f"{name} must be {_KINDS[kind]}", name)
    return value


_KINDS: Final = {str: "a text", bool: "true or false", int: "a whole number"}


def _integer(least: int, most: int) -> Reader:
    def read(value: Any, name: str) -> Sequence[int]:
        if type(value) is not int or not least <= value <= most:
            raise invalid(f"{name} must be a whole number from {least} to {most}", name)
        return [value]

    return read


_INT32: Final = _integer(-(2**31), 2**31 - 1)


def _number(value: Any, name: str) -> Sequence[float]:
    if type(value) not in (int, float) or abs(value) > 1e30:
        raise invalid(f"{name} must be a number", name)
    return [float(value)]


def _flag(value: Any, name: str) -> Sequence[bool]:
    if type(value) is not bool:
        raise invalid(f"{name} must be true or false", name)
    return [value]


def _texts(value: Any, name: str) -> Sequence[bytes]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise invalid(f"{name} must be a text or a list of texts", name)
    return [_encoded(text, name) for text in texts]


def _json(value: Any, name: str) -> Sequence[bytes]:
    return [_encoded(json.dumps(value, ensure_ascii=False), name)]


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise invalid(f"{name} has half of a surrogate pair, which is no character", name) from None


Table = Mapping[str, tuple[Tensor, Reader]]

_SAMPLING: Final[Table] = {
    "temperature": (contract.TEMPERATURE, _number),
    "top_p": (contract.TOP_P, _number),
    "top_k": (contract.TOP_K, _INT32),
    "frequency_penalty": (contract.FREQUENCY_PENALTY, _number),
    "presence_penalty": (contract.PRESENCE_PENALTY, _number),
    "max_tokens": (contract.MAX_TOKENS, _INT32),
    "stop": (contract.STOP_WORDS, _texts),
    "seed": (contract.SEED, _integer(0, 2**63 - 1)),
    "ignore_eos": (contract.IGNORE_EOS, _flag),
}

CHAT_FIELDS: Final[Table] = {
    **{
        tensor.name: (tensor, _json)
        for tensor in (
            contract.MESSAGES,
            contract.TOOLS,
            contract.TOOL_CHOICE,
            contract.RESPONSE_FORMAT,
            contract.TEMPLATE_ARGUMENTS,
        )
    },
    **_SAMPLING,
    "max_completion_tokens": (contract.MAX_TOKENS, _INT32),
    contract.THINKING_BUDGET.name: (contract.THINKING_BUDGET, _INT32),
    "thinking_token_budget": (contract.THINKING_BUDGET, _INT32),  # vLLM's name of it
}
"""Fields of `/v1/chat/completions` that are passed to the model, with their tensors."""

TEXT_FIELDS: Final[Table] = {**_SAMPLING, "logprobs": (contract.LOGPROBS, _integer(0, 5))}
"""Fields of `/v1/completions` that are passed to the model, with their tensors."""

_COMMON: Final = ("model", "stream", "stream_options", "n", "timeout")
_CHAT_ONLY: Final = ("logprobs", "top_logprobs", "reasoning_effort")
_TEXT_ONLY: Final = ("prompt",)

_FIXED: Final = {
    "parallel_tool_calls": True,
    "modalities": ["text"],
    "logit_bias": {},
    "best_of": 1,
    "echo": False,
    "suffix": "",
}
"""Fields of which one value is supported, the one that means nothing else."""

IGNORED_FIELDS: Final = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
)  # fmt: skip
"""Fields that say something to OpenAI's own service and nothing to a model."""

_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh")


def _apply_effort(fields: Mapping[str, Any], inputs: dict[Tensor, Sequence[Any]]) -> None:
    """`reasoning_effort` `none` turns thinking off; the model knows no other degrees."""
    effort = fields.get("reasoning_effort")
    if effort is None:
        return
    if effort not in _EFFORTS:
        raise invalid(f"reasoning_effort must be one of {', '.join(_EFFORTS)}", "reasoning_effort")
    name = contract.TEMPLATE_ARGUMENTS.name
    given = fields.get(name, {})
    if effort == "none" and isinstance(given, dict):
        inputs[contract.TEMPLATE_ARGUMENTS] = _json({THINKING_SWITCH: False} | given, name)


def _logprobs(fields: Mapping[str, Any]) -> Inputs:
    """Chat asks for log-probabilities with a flag, and with a number of alternatives."""
    wanted = _one(fields, "logprobs", bool, False)
    if "top_logprobs" not in fields:
        return {contract.LOGPROBS: [0]} if wanted else {}
    if not wanted:
        raise invalid("top_logprobs needs logprobs to be true", "top_logprobs")
    return {contract.LOGPROBS: _INT32(fields["top_logprobs"], "top_logprobs")}


def _choices(fields: Mapping[str, Any]) -> int:
    return int(_integer(1, MAX_CHOICES)(fields.get("n", 1), "n")[0])


def _prompts(prompt: Any) -> list[Inputs]:
    """The prompts of `/v1/completions`: a text, token numbers, or a list of either."""
    several = isinstance(prompt, list) and prompt and not _is_tokens(prompt)
    return [_prompt(one) for one in (prompt if several else [prompt])]


def _prompt(prompt: Any) -> Inputs:
    if isinstance(prompt, str):
        return {contract.TEXT_INPUT: [_encoded(prompt, "prompt")]}
    if _is_tokens(prompt):
        return {contract.INPUT_IDS: prompt}
    raise invalid("prompt must be a text, a list of token numbers, or a list of these", "prompt")


def _is_tokens(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(token) is int and 0 <= token < 2**31 for token in value)
    )


def _with_seed(inputs: dict[Tensor, Sequence[Any]], number: int) -> Inputs:
    """Choices of one prompt differ: each has the seed after that of the one before."""
    if contract.SEED in inputs:
        inputs[contract.SEED] = [inputs[contract.SEED][0] + number]
    return inputs


def _include_usage(fields: Mapping[str, Any], stream: bool) -> bool:
    options = fields.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise invalid("stream_options needs stream to be true", "stream_options")
    known = ("include_usage", "include_obfuscation")
    if not isinstance(options, dict) or set(options) - set(known):
        raise invalid(
            f"stream_options must be an object of {' and '.join(known)}", "stream_options"
        )
    return bool(_one(options, "include_usage", bool, False))


def _timeout(fields: Mapping[str, Any]) -> float | None:
    if "timeout" not in fields:
        return None
    (seconds,) = _number(fields["timeout"], "timeout")
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise invalid(f"timeout must be above 0 and at most {MAX_TIMEOUT_S:.0f} seconds", "timeout")
    return float(seconds)
