"""What the runtime and its executors are called."""

from __future__ import annotations

from typing import Final

PACKAGE: Final = "nemo_deploy_runtime"
"""The name under which a bundle holds the folder of this module."""

EXECUTORS: Final = ("trtllm", "vllm", "reference", "scripted")
"""What can generate tokens: TensorRT-LLM, vLLM, transformers on the CPU, or a file of answers."""
