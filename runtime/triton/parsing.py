"""Triton tensors to a validated `GenerationRequest`. Everything a client sends is checked here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import contract
from ..contract import Tensor
from ..generation import GenerationRequest, RequestError

Tensors = Mapping[str, NDArray[Any]]

MAX_PROMPT_BYTES: Final = 8 * 2**20
"""Longer prompts are refused before tokenizing, whose time and memory grow with the text."""

MAX_STOP_WORDS: Final = 16
MAX_STOP_BYTES: Final = 256

_NAMES: Final = tuple(tensor.name for tensor in contract.INPUTS)


def is_stop(tensors: Tensors) -> bool:
    """Whether the request asks to cancel the live request that has the same request id."""
    return bool(_scalar(tensors, contract.STOP, default=False))


def parse_request(tensors: Tensors) -> GenerationRequest:
    """Validate the tensors of one request. Raises `RequestError` that names tensor and rule.

    The prompt is echoed only into an answer that is not streamed, and only where
    `sampling_param_exclude_input_from_output` is false. TensorRT-LLM's own defaults disagree about
    it (`SamplingParams`, tensorrt_llm/sampling_params.py @000a01d: excluded; the Triton model's
    helpers.py @0df60f9: not excluded), so clients that care send it; absent means excluded here.
    """
    unknown = sorted(set(tensors) - set(_NAMES))
    if unknown:
        raise RequestError(f"unknown input {unknown[0]!r}; known are {', '.join(_NAMES)}")
    _require_single_sequence(tensors)
    return GenerationRequest(
        prompt=_prompt(tensors),
        max_tokens=_integer(tensors, contract.MAX_TOKENS, 32, least=1),
        temperature=_optional_number(tensors, contract.TEMPERATURE, least=0.0, most=100.0),
        top_k=_optional_top_k(tensors),
        top_p=_top_p(tensors),
        frequency_penalty=_penalty(tensors, contract.FREQUENCY_PENALTY),
        presence_penalty=_penalty(tensors, contract.PRESENCE_PENALTY),
        seed=int(_scalar(tensors, contract.SEED, default=0)),
        stop=_stop_words(tensors),
        streaming=_flag(tensors, contract.STREAMING),
        echo_prompt=not _flag(tensors, contract.EXCLUDE_INPUT, default=True),
        return_perf_metrics=_flag(tensors, contract.RETURN_PERF_METRICS),
        return_finish_reason=_flag(tensors, contract.RETURN_FINISH_REASON),
        return_stop_reason=_flag(tensors, contract.RETURN_STOP_REASON),
        return_cumulative_logprob=_flag(tensors, contract.RETURN_CUMULATIVE_LOGPROB),
    )


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
    given = contract.TOP_K.name in tensors
    return _integer(tensors, contract.TOP_K, 0, least=0) if given else None


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


def _texts(tensors: Tensors, wanted: Tensor) -> list[str]:
    tensor = _tensor(tensors, wanted)
    texts = []
    for element in [] if tensor is None else tensor.tolist():
        if isinstance(element, str):
            element = element.encode()
        try:
            texts.append(element.decode("utf-8"))
        except (UnicodeDecodeError, AttributeError):
            raise RequestError(f"{wanted.name} must be UTF-8 text") from None
    return texts


def _prompt(tensors: Tensors) -> str:
    texts = _texts(tensors, contract.TEXT_INPUT)
    if len(texts) != 1:
        raise RequestError(f"{contract.TEXT_INPUT.name} must hold one prompt, got {len(texts)}")
    prompt = texts[0]
    if not prompt:
        raise RequestError(f"{contract.TEXT_INPUT.name} is empty")
    size = len(prompt.encode())
    if size > MAX_PROMPT_BYTES:
        raise RequestError(
            f"{contract.TEXT_INPUT.name} has {size} bytes; the limit is {MAX_PROMPT_BYTES}"
        )
    return prompt


def _stop_words(tensors: Tensors) -> tuple[str, ...]:
    wanted = contract.STOP_WORDS
    words = _texts(tensors, wanted)
    if len(words) > MAX_STOP_WORDS:
        raise RequestError(f"{wanted.name} has {len(words)} words; the limit is {MAX_STOP_WORDS}")
    for word in words:
        if not word or len(word.encode()) > MAX_STOP_BYTES:
            raise RequestError(f"each word of {wanted.name} must have 1 to {MAX_STOP_BYTES} bytes")
    return tuple(words)
