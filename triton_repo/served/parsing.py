"""Triton tensors -> a validated `GenerationRequest`. All that a client can send is checked here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .generation import GenerationRequest, RequestError
from .tensors import INPUTS, NUMPY_TYPES

Tensors = Mapping[str, NDArray[Any]]

MAX_PROMPT_BYTES: Final = 8 * 2**20
"""Refused before tokenizing, whose time and memory grow with the text."""

MAX_STOP_WORDS: Final = 16
MAX_STOP_BYTES: Final = 256

_SPECS: Final = {spec.name: spec for spec in INPUTS}


def is_stop(tensors: Tensors) -> bool:
    """Whether the request asks to cancel the live request that has the same request id."""
    return bool(_scalar(tensors, "stop", default=False))


def parse_request(tensors: Tensors) -> GenerationRequest:
    """Validate the tensors of one request. Raises `RequestError` that names tensor and rule.

    The prompt is echoed only into an answer that is not streamed, and only where
    `sampling_param_exclude_input_from_output` is false. TensorRT-LLM's own defaults disagree about
    it (`SamplingParams`, tensorrt_llm/sampling_params.py @000a01d: excluded; the Triton model's
    helpers.py @0df60f9: not excluded), so clients that care send it; absent means excluded here.
    """
    unknown = sorted(set(tensors) - set(_SPECS))
    if unknown:
        raise RequestError(f"unknown input {unknown[0]!r}; known are {', '.join(_SPECS)}")
    _require_single_sequence(tensors)
    return GenerationRequest(
        prompt=_prompt(tensors),
        max_tokens=_integer(tensors, "sampling_param_max_tokens", 32, least=1),
        temperature=_optional_number(tensors, "sampling_param_temperature", least=0.0, most=100.0),
        top_k=_optional_top_k(tensors),
        top_p=_top_p(tensors),
        frequency_penalty=_penalty(tensors, "sampling_param_frequency_penalty"),
        presence_penalty=_penalty(tensors, "sampling_param_presence_penalty"),
        seed=int(_scalar(tensors, "sampling_param_seed", default=0)),
        stop=_stop_words(tensors),
        streaming=_flag(tensors, "streaming"),
        echo_prompt=not _flag(tensors, "sampling_param_exclude_input_from_output", default=True),
        return_perf_metrics=_flag(tensors, "sampling_param_return_perf_metrics"),
        return_finish_reason=_flag(tensors, "return_finish_reason"),
        return_stop_reason=_flag(tensors, "return_stop_reason"),
        return_cumulative_logprob=_flag(tensors, "return_cumulative_logprob"),
    )


def _tensor(tensors: Tensors, name: str) -> NDArray[Any] | None:
    tensor = tensors.get(name)
    if tensor is None:
        return None
    spec = _SPECS[name]
    if tensor.dtype != np.dtype(NUMPY_TYPES[spec.data_type]):
        raise RequestError(f"{name} must be {spec.data_type}, got {tensor.dtype}")
    if tensor.ndim != 1:
        raise RequestError(f"{name} must have one dimension, got shape {list(tensor.shape)}")
    return tensor


def _scalar(tensors: Tensors, name: str, default: Any) -> Any:
    tensor = _tensor(tensors, name)
    if tensor is None:
        return default
    if tensor.size != 1:
        raise RequestError(f"{name} must have shape [1], got {list(tensor.shape)}")
    return tensor.item()


def _flag(tensors: Tensors, name: str, default: bool = False) -> bool:
    return bool(_scalar(tensors, name, default))


def _integer(tensors: Tensors, name: str, default: int, least: int) -> int:
    value = int(_scalar(tensors, name, default))
    if value < least:
        raise RequestError(f"{name} must be at least {least}, got {value}")
    return value


def _optional_number(tensors: Tensors, name: str, least: float, most: float) -> float | None:
    value = _scalar(tensors, name, default=None)
    if value is None:
        return None
    if not math.isfinite(value) or not least <= value <= most:
        raise RequestError(f"{name} must be between {least:g} and {most:g}, got {value:g}")
    return float(value)


def _optional_top_k(tensors: Tensors) -> int | None:
    name = "sampling_param_top_k"
    return _integer(tensors, name, 0, least=0) if name in tensors else None


def _top_p(tensors: Tensors) -> float | None:
    value = _optional_number(tensors, "sampling_param_top_p", least=0.0, most=1.0)
    if value == 0:
        raise RequestError(
            "sampling_param_top_p must be above 0; for the likeliest token use top_k 1"
        )
    return value


def _penalty(tensors: Tensors, name: str) -> float:
    return _optional_number(tensors, name, least=-100.0, most=100.0) or 0.0


def _require_single_sequence(tensors: Tensors) -> None:
    best_of = _integer(tensors, "sampling_param_best_of", 1, least=1)
    if best_of != 1:
        raise RequestError(
            f"sampling_param_best_of must be 1, got {best_of}: a request generates one sequence; "
            "send the request several times with different seeds instead"
        )


def _texts(tensors: Tensors, name: str) -> list[str]:
    tensor = _tensor(tensors, name)
    texts = []
    for element in [] if tensor is None else tensor.tolist():
        if isinstance(element, str):
            element = element.encode()
        try:
            texts.append(element.decode("utf-8"))
        except (UnicodeDecodeError, AttributeError):
            raise RequestError(f"{name} must be UTF-8 text") from None
    return texts


def _prompt(tensors: Tensors) -> str:
    texts = _texts(tensors, "text_input")
    if len(texts) != 1:
        raise RequestError(f"text_input must hold one prompt, got {len(texts)}")
    prompt = texts[0]
    if not prompt:
        raise RequestError("text_input is empty")
    size = len(prompt.encode())
    if size > MAX_PROMPT_BYTES:
        raise RequestError(f"text_input has {size} bytes; the limit is {MAX_PROMPT_BYTES}")
    return prompt


def _stop_words(tensors: Tensors) -> tuple[str, ...]:
    name = "sampling_param_stop"
    words = _texts(tensors, name)
    if len(words) > MAX_STOP_WORDS:
        raise RequestError(f"{name} has {len(words)} words; the limit is {MAX_STOP_WORDS}")
    for word in words:
        if not word or len(word.encode()) > MAX_STOP_BYTES:
            raise RequestError(f"each word of {name} must have 1 to {MAX_STOP_BYTES} bytes")
    return tuple(words)
