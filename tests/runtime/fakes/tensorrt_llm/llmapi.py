"""A FAKE of tensorrt_llm.llmapi, after NVIDIA/TensorRT-LLM, tensorrt_llm/sampling_params.py
@000a01d."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class GuidedDecodingParams:
    json: str | dict | None = None
    regex: str | None = None
    grammar: str | None = None
    json_object: bool = False
    structural_tag: str | None = None
