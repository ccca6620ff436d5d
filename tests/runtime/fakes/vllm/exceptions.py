"""FAKE: vllm/exceptions.py, as it is since 0.27."""


class VLLMClientError(Exception):
    pass


class VLLMValidationError(VLLMClientError):
    pass
