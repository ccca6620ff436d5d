"""Streamed requests to a served `tiny` over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton

from nemotron_deploy.runtime.contract import INPUTS

_TYPES = {tensor.name: tensor.data_type for tensor in INPUTS}


def tensors(**values: Any) -> list[Any]:
    """Input tensors by name, typed as the contract declares them; a list has several elements."""
    made = []
    for name, value in values.items():
        elements = value if isinstance(value, list) else [value]
        array = np.array(_encoded(elements), dtype=_TYPES[name].numpy)
        made.append(triton.InferInput(name, list(array.shape), _TYPES[name].wire))
        made[-1].set_data_from_numpy(array)
    return made


def _encoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_encoded(element) for element in value]
    return value.encode() if isinstance(value, str) else value


async def stream(client: Any, request_id: str = "", **values: Any) -> AsyncIterator[dict[str, Any]]:
    """The tensors of each response. Raises what the server says.

    The stream is read to its end. Triton 2.51 never unloads a model again if a client closes a
    stream at the moment of its last response or of an error.
    """

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {
            "model_name": "tiny",
            "inputs": tensors(**values),
            "request_id": request_id,
            "enable_empty_final_response": True,
        }

    failure = None
    async for result, error in client.stream_infer(requests()):
        failure = failure or error
        if error is None:
            response = result.get_response()
            yield {output.name: result.as_numpy(output.name)[0] for output in response.outputs}
    if failure is not None:
        raise failure
