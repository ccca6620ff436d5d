"""FAKE: vllm/config/structured_outputs.py."""

from dataclasses import dataclass


@dataclass
class StructuredOutputsConfig:
    backend: str = "auto"
