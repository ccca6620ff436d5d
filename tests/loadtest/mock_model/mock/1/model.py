"""MOCK of NVIDIA's llmapi Triton model: emits words on a schedule, generates nothing.

The prompt is a JSON object (another text means the defaults):

    first_ms, gap_ms   when the first response comes, and the gaps between later ones
    style              "delta", "cumulative", or "stamped": each text is the monotonic clock in
                       nanoseconds right before it is sent
    fail_at            fail the request before the response of this index
    die_at             kill the model's process before the response of this index
    together           wait with the first response until so many requests have come that say this,
                       for `TOGETHER_S` at most; then fail

`sampling_param_max_tokens` responses are sent, one word each. Real: triton_python_backend_utils.
"""

import json
import os
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

DEFAULTS = {
    "first_ms": 20,
    "gap_ms": 5,
    "style": "delta",
    "fail_at": -1,
    "die_at": -1,
    "together": 1,
}

TOGETHER_S = 120
"""Only for requests that would never come: as long as no machine is busy."""


class TritonPythonModel:
    def initialize(self, args):
        self.threads = []
        self.barriers = {}
        self.lock = threading.Lock()

    def execute(self, requests):
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        for request in requests:
            thread = threading.Thread(target=self.answer, args=(request,))
            self.threads.append(thread)
            thread.start()

    def answer(self, request):
        sender = request.get_response_sender()
        try:
            self.emit(request, sender)
        except Exception as error:
            failure = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            sender.send(failure, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def emit(self, request, sender):
        options = DEFAULTS | self.options(request)
        count = int(self.value(request, "sampling_param_max_tokens", 8))
        self.barrier(options["together"]).wait(TOGETHER_S)
        due = time.monotonic() + options["first_ms"] / 1000
        sent = []
        for index in range(count):
            if index == options["fail_at"]:
                raise RuntimeError("mock failure: told to fail")
            if index == options["die_at"]:
                os._exit(1)
            time.sleep(max(0.0, due - time.monotonic()))
            due += options["gap_ms"] / 1000
            sent.append(f" word{index}")
            text = "".join(sent) if options["style"] == "cumulative" else sent[-1]
            if options["style"] == "stamped":
                text = f"{time.monotonic_ns()} "
            tensor = pb_utils.Tensor("text_output", np.array([text.encode()], dtype=object))
            sender.send(pb_utils.InferenceResponse([tensor]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def barrier(self, parties):
        with self.lock:
            return self.barriers.setdefault(parties, threading.Barrier(parties))

    def options(self, request):
        try:
            options = json.loads(self.value(request, "text_input", b"{}"))
        except ValueError:
            return {}
        return options if isinstance(options, dict) else {}

    @staticmethod
    def value(request, name, default):
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        return default if tensor is None else tensor.as_numpy().reshape(-1)[0]

    def finalize(self):
        for thread in self.threads:
            thread.join(timeout=5)
