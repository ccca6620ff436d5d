"""Greedy answers of a server, through both of its interfaces: one JSON object.

    client.py GRPC OPENAI PROMPTS

GRPC is HOST:PORT, OPENAI the endpoint's URL, PROMPTS a JSON list. Runs in a Job, where only the
packages of the test environment are mounted.
"""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

import numpy as np
import openai
import tritonclient.grpc as triton

MODEL = "tiny"
TOKENS = 24
TIMEOUT_S = 120


def of_triton(client: Any, prompt: str) -> list[Any]:
    values = {
        "text_input": np.array([prompt.encode()], dtype=object),
        "sampling_param_temperature": np.array([0], dtype=np.float32),
        "sampling_param_max_tokens": np.array([TOKENS], dtype=np.int32),
        "ignore_eos": np.array([True]),
    }
    kinds = {"O": "BYTES", "f": "FP32", "i": "INT32", "b": "BOOL"}
    inputs = []
    for name, array in values.items():
        inputs.append(triton.InferInput(name, list(array.shape), kinds[array.dtype.kind]))
        inputs[-1].set_data_from_numpy(array)
    responses: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: responses.put((result, error)))
    client.async_stream_infer(MODEL, inputs)
    result, error = responses.get(timeout=TIMEOUT_S)
    client.stop_stream()
    if error is not None:
        raise error
    text = result.as_numpy("text_output")[0].decode()
    return [text, int(result.as_numpy("num_output_tokens")[0])]


def of_openai(client: openai.OpenAI, prompt: str) -> list[Any]:
    answer = client.completions.create(
        model=MODEL,
        prompt=prompt,
        temperature=0,
        max_tokens=TOKENS,
        extra_body={"ignore_eos": True},
    )
    assert answer.usage is not None
    return [answer.choices[0].text, answer.usage.completion_tokens]


def main() -> None:
    grpc, url, prompts = sys.argv[1:]
    direct = triton.InferenceServerClient(grpc)
    endpoint = openai.OpenAI(base_url=url, api_key="none")
    answers = {
        prompt: {"triton": of_triton(direct, prompt), "openai": of_openai(endpoint, prompt)}
        for prompt in json.loads(prompts)
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
