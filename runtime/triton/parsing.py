"""Triton tensors to a validated `GenerationRequest`. Everything a client sends is checked here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import contract
from ..chat import (
    TOOL_CHOICES,
    Conversation,
    read_conversation,
    read_response_format,
)
from ..contract import Tensor
from ..errors import RequestError
from ..generation import GenerationRequest
from ..guides import Guide
from ..prompts import MAX_PROMPT_BYTES
from ..untrusted import parse_json
from .frontend import Tensors, in_our_form

MAX_STOP_WORDS: Final = 16
MAX_STOP_BYTES: Final = 256
MAX_LOGPROBS: Final = 20

_CHAT_ONLY: Final = (
    contract.TOOLS, contract.TOOL_CHOICE, contract.TEMPLATE_ARGUMENTS, contract.THINKING_BUDGET,
)  # fmt: skip
"""Inputs that mean something with `messages` only."""

_NAMES: Final = tuple(tensor.name for tensor in contract.INPUTS)


def is_stop(tensors: Tensors) -> bool:
    """Whether the request asks to cancel the live request that has the same request id."""
    return bool(_scalar(tensors, contract.STOP, default=False))


def parse_request(tensors: Tensors, most_bytes: int = MAX_PROMPT_BYTES) -> GenerationRequest:
    """Validate the tensors of one request. Raises `RequestError` that names tensor and rule.

    A prompt, or a JSON text, of more than `most_bytes` bytes is refused before it is read.

    The prompt is echoed only into an answer that is not streamed, and only where
    `sampling_param_exclude_input_from_output` is false. TensorRT-LLM's own defaults disagree about
    it (`SamplingParams`, tensorrt_llm/sampling_params.py @000a01d: excluded; the Triton model's
    helpers.py @0df60f9: not excluded), so clients that care send it; absent means excluded here.
    """
    unknown = sorted(set(tensors) - set(_NAMES))
    if unknown:
        raise RequestError(f"unknown input {unknown[0]!r}; known are {', '.join(_NAMES)}")
    tensors = in_our_form(tensors)
    _require_single_sequence(tensors)
    source = _source(tensors)
    chat = source is contract.MESSAGES
    conversation, guide = _conversation(tensors, most_bytes) if chat else (None, None)
    return GenerationRequest(
        prompt=_prompt(tensors, most_bytes) if source is contract.TEXT_INPUT else "",
        conversation=conversation,
        input_ids=_input_ids(tensors, most_bytes) if source is contract.INPUT_IDS else None,
        max_tokens=_max_tokens(tensors, chat),
        temperature=_optional_number(tensors, contract.TEMPERATURE, least=0.0, most=100.0),
        top_k=_optional_top_k(tensors),
        top_p=_top_p(tensors),
        frequency_penalty=_penalty(tensors, contract.FREQUENCY_PENALTY),
        presence_penalty=_penalty(tensors, contract.PRESENCE_PENALTY),
        seed=_scalar(tensors, contract.SEED, default=None),
        stop=_stop_words(tensors),
        streaming=_flag(tensors, contract.STREAMING),
        echo_prompt=not _flag(tensors, contract.EXCLUDE_INPUT, default=True),
        return_perf_metrics=_flag(tensors, contract.RETURN_PERF_METRICS),
        return_finish_reason=_flag(tensors, contract.RETURN_FINISH_REASON, default=chat),
        return_stop_reason=_flag(tensors, contract.RETURN_STOP_REASON),
        return_cumulative_logprob=_flag(tensors, contract.RETURN_CUMULATIVE_LOGPROB),
        ignore_eos=_flag(tensors, contract.IGNORE_EOS),
        logprobs=_optional_integer(tensors, contract.LOGPROBS, most=MAX_LOGPROBS),
        thinking_budget=_optional_integer(tensors, contract.THINKING_BUDGET),
        guide=_guide(tensors, guide, conversation, most_bytes),
    )


def _source(tensors: Tensors) -> Tensor:
    """The input that holds the prompt. Raises `RequestError` unless there is exactly one, and for
    inputs that do not go with it."""
    sources = (contract.TEXT_INPUT, contract.MESSAGES, contract.INPUT_IDS)
    given = [source for source in sources if source.name in tensors]
    if len(given) > 1:
        raise RequestError(f"{given[0].name} and {given[1].name} are both given; send one of them")
    source = given[0] if given else contract.TEXT_INPUT
    if source is not contract.MESSAGES:
        for chat_only in _CHAT_ONLY:
            if chat_only.name in tensors:
                raise RequestError(f"{chat_only.name} needs {contract.MESSAGES.name}")
    return source


def _conversation(tensors: Tensors, most_bytes: int) -> tuple[Conversation, Guide | None]:
    return read_conversation(
        _json(tensors, contract.MESSAGES, most_bytes),
        _json(tensors, contract.TOOLS, most_bytes),
        _json(tensors, contract.TOOL_CHOICE, most_bytes, words=TOOL_CHOICES),
        _json(tensors, contract.TEMPLATE_ARGUMENTS, most_bytes),
    )


def _guide(
    tensors: Tensors, of_tools: Guide | None, conversation: Conversation | None, most_bytes: int
) -> Guide | None:
    value = _json(tensors, contract.RESPONSE_FORMAT, most_bytes)
    of_format = None if value is None else read_response_format(value)
    if of_tools is not None and of_format is not None:
        raise RequestError(
            f"{contract.RESPONSE_FORMAT.name} and a {contract.TOOL_CHOICE.name} that demands a "
            "call exclude each other"
        )
    if of_format is not None and conversation is not None:  # the model may call them instead
        of_format = replace(of_format, tools=conversation.schemas)
    return of_tools or of_format


def _json(tensors: Tensors, wanted: Tensor, most_bytes: int, words: Sequence[str] = ()) -> Any:
    """The JSON value of a text tensor, None where it is absent; one of `words` may be unquoted."""
    texts = _texts(tensors, wanted, most_bytes)
    if wanted.name not in tensors:
        return None
    if len(texts) != 1:
        raise RequestError(f"{wanted.name} must hold one JSON text, got {len(texts)}")
    if texts[0] in words:
        return texts[0]
    try:
        value = parse_json(texts[0].encode())
        json.dumps(value, ensure_ascii=False).encode()  # JSON can write halves of surrogate pairs
    except ValueError as error:
        raise RequestError(f"{wanted.name} is not valid JSON: {error}") from error
    return value


def _input_ids(tensors: Tensors, most_bytes: int) -> tuple[int, ...]:
    tensor = _tensor(tensors, contract.INPUT_IDS)
    if tensor is None or not tensor.size:
        raise RequestError(f"{contract.INPUT_IDS.name} is empty")
    if tensor.nbytes > most_bytes:
        raise RequestError(f"{contract.INPUT_IDS.name} has {tensor.size} tokens, which is too many")
    return tuple(tensor.tolist())


def _max_tokens(tensors: Tensors, chat: bool) -> int | None:
    if chat and contract.MAX_TOKENS.name not in tensors:
        return None
    return _integer(tensors, contract.MAX_TOKENS, 32, least=1)


def _optional_integer(tensors: Tensors, wanted: Tensor, most: int | None = None) -> int | None:
    if wanted.name not in tensors:
        return None
    value = _integer(tensors, wanted, 0, least=0)
    if most is not None and value > most:
        raise RequestError(f"{wanted.name} must be at most {most}, got {value}")
    return value


def _tensor(tensors: Tensors, wanted: Tensor) -> NDArray[Any] | None:
    tensor = tensors.get(wanted.name)
    if tensor is None:
        return None
    if tensor.dtype != np.dtype(wanted.data_type.numpy):
        raise RequestError(f"{wanted.name} must be {wanted.data_type.config}, got {tensor.dtype}")
    if tensor.ndim != 1:
        raise RequestError(f"{wanted.name} must have one dimension, got shape {list(tensor.shape)}")
    return tensor


def _scalar(tensors: Tensors, wanted: Tensor, default: Any) -> Any:
    tensor = _tensor(tensors, wanted)
    if tensor is None:
        return default
    if tensor.size != 1:
        raise RequestError(f"{wanted.name} must have shape [1], got {list(tensor.shape)}")
    return tensor.item()


def _flag(tensors: Tensors, wanted: Tensor, default: bool = False) -> bool:
    return bool(_scalar(tensors, wanted, default))


def _integer(tensors: Tensors, wanted: Tensor, default: int, least: int) -> int:
    value = int(_scalar(tensors, wanted, default))
    if value < least:
        raise RequestError(f"{wanted.name} must be at least {least}, got {value}")
    return value


def _optional_number(tensors: Tensors, wanted: Tensor, least: float, most: float) -> float | None:
    value = _scalar(tensors, wanted, default=None)
    if value is None:
        return None
    if not math.isfinite(value) or not least <= value <= most:
        raise RequestError(f"{wanted.name} must be between {least:g} and {most:g}, got {value:g}")
    return float(value)


def _optional_top_k(tensors: Tensors) -> int | None:
    return _optional_integer(tensors, contract.TOP_K)


def _top_p(tensors: Tensors) -> float | None:
    value = _optional_number(tensors, contract.TOP_P, least=0.0, most=1.0)
    if value == 0:
        raise RequestError(
            f"{contract.TOP_P.name} must be above 0; for the most likely token use "
            f"{contract.TOP_K.name} 1"
        )
    return value


def _penalty(tensors: Tensors, wanted: Tensor) -> float:
    return _optional_number(tensors, wanted, least=-100.0, most=100.0) or 0.0


def _require_single_sequence(tensors: Tensors) -> None:
    best_of = _integer(tensors, contract.BEST_OF, 1, least=1)
    if best_of != 1:
        raise RequestError(
            f"{contract.BEST_OF.name} must be 1, got {best_of}: a request generates one sequence; "
            "send the request several times with different seeds instead"
        )


def _texts(tensors: Tensors, wanted: Tensor, most_bytes: int = MAX_PROMPT_BYTES) -> list[str]:
    tensor = _tensor(tensors, wanted)
    texts = []
    for element in [] if tensor is None else tensor.tolist():
        if isinstance(element, str):
            element = element.encode()
        if isinstance(element, bytes) and len(element) > most_bytes:
            raise RequestError(
                f"{wanted.name} has {len(element)} bytes; the limit is {most_bytes}, from the "
                "tokens of the context"
            )
        try:
            texts.append(element.decode("utf-8"))
        except (UnicodeDecodeError, AttributeError):
            raise RequestError(f"{wanted.name} must be UTF-8 text") from None
    return texts


def _prompt(tensors: Tensors, most_bytes: int) -> str:
    texts = _texts(tensors, contract.TEXT_INPUT, most_bytes)
    if len(texts) != 1:
        raise RequestError(
            f"{contract.TEXT_INPUT.name} must hold one prompt, got {len(texts)}; instead of it, "
            f"{contract.MESSAGES.name} or {contract.INPUT_IDS.name} may be sent"
        )
    if not texts[0]:
        raise RequestError(f"{contract.TEXT_INPUT.name} is empty")
    return texts[0]


def _stop_words(tensors: Tensors) -> tuple[str, ...]:
    wanted = contract.STOP_WORDS
    words = _texts(tensors, wanted)
    if len(words) > MAX_STOP_WORDS:
        raise RequestError(f"{wanted.name} has {len(words)} words; the limit is {MAX_STOP_WORDS}")
    for word in words:
        if not word or len(word.encode()) > MAX_STOP_BYTES:
            raise RequestError(f"each word of {wanted.name} must have 1 to {MAX_STOP_BYTES} bytes")
    return tuple(words)
