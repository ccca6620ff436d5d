"""LLM() keyword arguments for a plan, and a check of any such mapping against TensorRT-LLM's own.

Every TensorRT-LLM argument class forbids unknown keys, so one wrong name stops the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ....model.spec import Serving, Workload
from .. import argument_table
from ..serving_options import STATE_DTYPES
from .serving import KV_DTYPES
from .support import schema_name

SCHEMAS: Final = Path(__file__).parent / "data"
"""JSON Schemas of TensorRT-LLM's argument classes; each release in `rules.json` names its own."""


def llm_args(
    *,
    max_batch_size: int,
    max_seq_len: int,
    workload: Workload,
    serving: Serving,
    moe_backend: str,
) -> dict[str, Any]:
    """The arguments to serve a Nemotron-H model with on the PyTorch backend.

    - Block reuse is off: it is on by default and unsupported for Mamba state.
    - `max_batch_size` is how many slots of Mamba state there are, one a sequence: running out of
      them killed servers (TensorRT-LLM issue 13179, in a 1.3 candidate).
    - Experts are split by expert, not by tensor: their width does not divide into kernel tiles.
    - Guided decoding is on, as it is off by default, with the library whose grammars the runtime
      writes. Requests that are not guided pay for it with a copy of empty masks in each step.
    - No torch.compile, so no piecewise CUDA graphs: with chunked prefill they gave NaN (PR 16193).
    """
    return {
        "backend": "pytorch",
        "trust_remote_code": False,
        "tensor_parallel_size": workload.gpus,
        "moe_expert_parallel_size": workload.gpus,
        "max_batch_size": max_batch_size,
        "max_seq_len": max_seq_len,
        "max_num_tokens": serving.step_tokens,
        "enable_chunked_prefill": True,
        "guided_decoding_backend": "llguidance",
        "kv_cache_config": {
            "dtype": KV_DTYPES[serving.kv_dtype],
            "enable_block_reuse": False,
            "free_gpu_memory_fraction": serving.cache_share,
            "mamba_ssm_cache_dtype": STATE_DTYPES[serving.state_dtype],
        },
        "cuda_graph_config": {
            "enable_padding": True,
            "max_batch_size": min(max_batch_size, serving.graph_batch),
        },
        "moe_config": {"backend": moe_backend},
    }


def problems(args: Mapping[str, Any], versions: str) -> list[str]:
    """What TensorRT-LLM of these versions would refuse in `args`, one line each."""
    return argument_table.problems(args, SCHEMAS / schema_name(versions), "llm_args")
