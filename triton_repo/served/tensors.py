"""The tensors of the served model: one table, from which `config.pbtxt` and the parser are made.

Names, types and shapes are those of TensorRT-LLM's own Triton model (its 1.2 line), so that its
clients work unchanged: NVIDIA/TensorRT-LLM @c8c6df0,
triton_backend/all_models/llmapi/tensorrt_llm/config.pbtxt. The inputs that later versions added are
left out: `lora_path` names a path on the server, `image_url` makes it fetch what a client names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: Triton data type (`TYPE_...`) and dimensions (-1 is any)."""

    name: str
    data_type: str
    dims: tuple[int, ...] = (1,)
    optional: bool = True


INPUTS: Final = (
    TensorSpec("text_input", "TYPE_STRING", (-1,), optional=False),
    TensorSpec("streaming", "TYPE_BOOL"),
    TensorSpec("sampling_param_best_of", "TYPE_INT32"),
    TensorSpec("sampling_param_temperature", "TYPE_FP32"),
    TensorSpec("sampling_param_top_k", "TYPE_INT32"),
    TensorSpec("sampling_param_top_p", "TYPE_FP32"),
    TensorSpec("sampling_param_frequency_penalty", "TYPE_FP32"),
    TensorSpec("sampling_param_presence_penalty", "TYPE_FP32"),
    TensorSpec("sampling_param_max_tokens", "TYPE_INT32"),
    TensorSpec("sampling_param_stop", "TYPE_STRING", (-1,)),
    TensorSpec("sampling_param_seed", "TYPE_UINT64"),
    TensorSpec("sampling_param_exclude_input_from_output", "TYPE_BOOL"),
    TensorSpec("sampling_param_return_perf_metrics", "TYPE_BOOL"),
    TensorSpec("return_finish_reason", "TYPE_BOOL"),
    TensorSpec("return_stop_reason", "TYPE_BOOL"),
    TensorSpec("return_cumulative_logprob", "TYPE_BOOL"),
    TensorSpec("stop", "TYPE_BOOL"),
)

OUTPUTS: Final = (
    TensorSpec("text_output", "TYPE_STRING", (-1,)),
    TensorSpec("finish_reason", "TYPE_STRING", (-1,)),
    TensorSpec("stop_reason", "TYPE_STRING", (-1,)),
    TensorSpec("cumulative_logprob", "TYPE_FP32", (-1,)),
    TensorSpec("kv_cache_reused_block", "TYPE_INT32", (-1,)),
    TensorSpec("kv_cache_missed_block", "TYPE_INT32", (-1,)),
    TensorSpec("kv_cache_alloc_new_blocks", "TYPE_INT32", (-1,)),
    TensorSpec("kv_cache_alloc_total_blocks", "TYPE_INT32", (-1,)),
    TensorSpec("kv_cache_hit_rate", "TYPE_FP32", (-1,)),
    TensorSpec("arrival_time_ns", "TYPE_INT64"),
    TensorSpec("first_scheduled_time_ns", "TYPE_INT64"),
    TensorSpec("first_token_time_ns", "TYPE_INT64"),
    TensorSpec("last_token_time_ns", "TYPE_INT64"),
    TensorSpec("acceptance_rate", "TYPE_FP32"),
    TensorSpec("total_accepted_draft_tokens", "TYPE_INT32"),
    TensorSpec("total_draft_tokens", "TYPE_INT32"),
)

NUMPY_TYPES: Final = {
    "TYPE_STRING": "O",
    "TYPE_BOOL": "bool",
    "TYPE_INT32": "int32",
    "TYPE_INT64": "int64",
    "TYPE_UINT64": "uint64",
    "TYPE_FP32": "float32",
}
"""numpy's name of each Triton data type above."""
