"""Put one prompt to a served model and stream its answer, with tritonclient."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any, Final

from ..core.errors import CheckFailedError

TIMEOUT_S: Final = 60.0


def ask(url: str, model: str, prompt: str, max_tokens: int = 32) -> Iterator[str]:
    """Pieces of the answer of `model` behind `url` (`host:port`) as they arrive, greedily decoded.

    Raises `CheckFailedError` with the server's words when it reports an error or falls silent.
    """
    import numpy as np
    import tritonclient.grpc as triton

    inputs = []
    for name, value in (
        ("text_input", np.array([prompt.encode()], dtype=object)),
        ("streaming", np.array([True])),
        ("sampling_param_max_tokens", np.array([max_tokens], dtype=np.int32)),
        ("sampling_param_exclude_input_from_output", np.array([True])),
    ):
        kind = {"object": "BYTES", "bool": "BOOL", "int32": "INT32"}[value.dtype.name]
        tensor = triton.InferInput(name, list(value.shape), kind)
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(model, inputs, enable_empty_final_response=True)
        while True:
            try:
                result, error = answers.get(timeout=TIMEOUT_S)
            except queue.Empty:
                raise CheckFailedError(f"{url}: no answer within {TIMEOUT_S:.0f} s") from None
            if error is not None:
                raise CheckFailedError(f"{url}: {error.message()}")
            text = result.as_numpy("text_output")
            if text is not None and len(text):
                yield text[0].decode()
            if result.get_response().parameters["triton_final_response"].bool_param:
                return
