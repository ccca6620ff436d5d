"""Put one prompt to a served model and stream its answer, with tritonclient."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any, Final

from ..core.errors import CheckFailedError
from ..runtime import contract

TIMEOUT_S: Final = 60.0


def ask(url: str, model: str, prompt: str, max_tokens: int = 32) -> Iterator[str]:
    """Pieces of the answer of `model` behind `url` (`host:port`) as they arrive, greedily decoded.

    Raises `CheckFailedError` with the server's words when it reports an error or falls silent.
    """
    import numpy as np
    import tritonclient.grpc as triton

    inputs = []
    for sent, value in (
        (contract.TEXT_INPUT, prompt.encode()),
        (contract.STREAMING, True),
        (contract.MAX_TOKENS, max_tokens),
        (contract.TOP_K, 1),
        (contract.EXCLUDE_INPUT, True),
    ):
        tensor = triton.InferInput(sent.name, [1], sent.data_type.wire)
        tensor.set_data_from_numpy(np.array([value], dtype=sent.data_type.numpy))
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
            text = result.as_numpy(contract.TEXT_OUTPUT.name)
            if text is not None and len(text):
                yield text[0].decode()
            if result.get_response().parameters[contract.FINAL_RESPONSE].bool_param:
                return
