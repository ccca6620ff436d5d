"""Requests as Triton's own OpenAI frontend builds them, brought into the form of ours.

The frontend renders the chat template itself and sends a prompt, with the sampling parameters as
one JSON object (`--backend vllm`) or under names of their own. Written against
triton-inference-server/server, python/openai/openai_frontend/engine/utils/triton.py @0019b9d and
later versions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import contract
from ..contract import DataType, Tensor
from ..errors import RequestError
from ..untrusted import parse_json

Tensors = Mapping[str, NDArray[Any]]

MAX_BYTES: Final = 2**20
"""The longest JSON text of parameters or of a guide."""

_OTHER_NAMES: Final[Mapping[Tensor, Tensor]] = {
    contract.STREAM: contract.STREAMING,
    contract.FRONTEND_MAX_TOKENS: contract.MAX_TOKENS,
    contract.FRONTEND_STOP_WORDS: contract.STOP_WORDS,
    contract.FRONTEND_TEMPERATURE: contract.TEMPERATURE,
    contract.FRONTEND_TOP_P: contract.TOP_P,
    contract.FRONTEND_FREQUENCY_PENALTY: contract.FREQUENCY_PENALTY,
    contract.FRONTEND_PRESENCE_PENALTY: contract.PRESENCE_PENALTY,
    contract.FRONTEND_SEED: contract.SEED,
    contract.FRONTEND_EXCLUDE_INPUT: contract.EXCLUDE_INPUT,
}
"""Tensors that have the meaning of one of ours."""

_NOT_NEEDED: Final = (
    contract.RETURN_INPUT_COUNT, contract.RETURN_OUTPUT_COUNT, contract.RETURN_LOGPROBS,
)  # fmt: skip

_PARAMETERS: Final[Mapping[str, Tensor]] = {
    **{
        tensor.name: ours
        for tensor, ours in _OTHER_NAMES.items()
        if tensor not in (contract.STREAM, contract.FRONTEND_STOP_WORDS)
    },
    "stop": contract.STOP_WORDS,
    "top_k": contract.TOP_K,
    "best_of": contract.BEST_OF,
    "n": contract.BEST_OF,
    contract.LOGPROBS.name: contract.LOGPROBS,
    contract.IGNORE_EOS.name: contract.IGNORE_EOS,
}
"""Members of `sampling_parameters`, and what they are here."""


def in_our_form(tensors: Tensors) -> Tensors:
    """The tensors of a request under the names of `contract.INPUTS` that the model reads.

    Raises `RequestError` for a value that is given twice, or that has no meaning here.
    """
    given = dict(tensors)
    for tensor in _NOT_NEEDED:
        given.pop(tensor.name, None)
    for tensor, ours in _OTHER_NAMES.items():
        if tensor.name in given:
            _add(given, ours, tensor.name, given.pop(tensor.name))
    parameters = given.pop(contract.SAMPLING_PARAMETERS.name, None)
    for name, value in _members(parameters).items():
        where = f"{contract.SAMPLING_PARAMETERS.name}: {name}"
        if name not in _PARAMETERS:
            raise RequestError(
                f"{where} is not supported; known are {', '.join(sorted(_PARAMETERS))}"
            )
        # Some versions send `"logprobs": false` where none are wanted.
        if value is not None and not (_PARAMETERS[name] is contract.LOGPROBS and value is False):
            _add(given, _PARAMETERS[name], where, _array(value, _PARAMETERS[name], where))
    return _with_guide(given)


def _with_guide(given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    kind = given.pop(contract.GUIDE_TYPE.name, None)
    guide = given.pop(contract.GUIDE.name, None)
    if kind is None and guide is None:
        return given
    if kind is None or guide is None or _bytes(kind, contract.GUIDE_TYPE.name) != b"json_schema":
        raise RequestError(
            f"{contract.GUIDE_TYPE.name} must be json_schema, with the schema in "
            f"{contract.GUIDE.name}"
        )
    schema = _json(guide, contract.GUIDE.name)
    text = json.dumps({"type": "json_schema", "json_schema": {"schema": schema}})
    value = np.array([text.encode()], dtype=object)
    _add(given, contract.RESPONSE_FORMAT, contract.GUIDE.name, value)
    return given


def _add(given: dict[str, NDArray[Any]], ours: Tensor, name: str, value: NDArray[Any]) -> None:
    if ours.name in given:
        raise RequestError(f"{name} and {ours.name} are both given; send one of them")
    given[ours.name] = value


def _members(parameters: NDArray[Any] | None) -> Mapping[str, Any]:
    if parameters is None:
        return {}
    value = _json(parameters, contract.SAMPLING_PARAMETERS.name)
    if not isinstance(value, dict):
        raise RequestError(f"{contract.SAMPLING_PARAMETERS.name} must be a JSON object")
    return value


def _json(tensor: NDArray[Any], name: str) -> Any:
    try:
        return parse_json(_bytes(tensor, name))
    except ValueError as error:
        raise RequestError(f"{name} is not valid JSON: {error}") from error


def _bytes(tensor: NDArray[Any], name: str) -> bytes:
    elements = tensor.ravel().tolist()
    if len(elements) != 1 or not isinstance(elements[0], bytes):
        raise RequestError(f"{name} must hold one text")
    if len(elements[0]) > MAX_BYTES:
        raise RequestError(f"{name} has {len(elements[0])} bytes; the limit is {MAX_BYTES}")
    return elements[0]


def _array(value: Any, ours: Tensor, where: str) -> NDArray[Any]:
    """A JSON value as the tensor `ours`."""
    elements = value if isinstance(value, list) else [value]
    kinds: dict[DataType, type | tuple[type, ...]] = {
        DataType.STRING: str, DataType.BOOL: bool, DataType.FP32: (int, float),
    }  # fmt: skip
    kind = kinds.get(ours.data_type, int)
    if not all(isinstance(e, kind) and (kind is bool or not isinstance(e, bool)) for e in elements):
        raise RequestError(f"{where} must be {ours.data_type.config}, got {value!r:.40}")
    dtype = np.dtype(ours.data_type.numpy)
    if kind is int and not all(np.iinfo(dtype).min <= e <= np.iinfo(dtype).max for e in elements):
        raise RequestError(f"{where} is out of range, got {value!r:.40}")
    try:
        return np.array([e.encode() if isinstance(e, str) else e for e in elements], dtype=dtype)
    except (OverflowError, UnicodeEncodeError) as error:
        raise RequestError(f"{where} cannot be used: {error}") from error
