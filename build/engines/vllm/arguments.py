"""`AsyncEngineArgs` for a plan, and a check of any such mapping against vLLM's own, which refuses
unknown names and most wrong values when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....model.spec import Serving, Workload
from .. import argument_table
from ..serving_options import STATE_DTYPES
from .serving import KV_DTYPES
from .support import table


def engine_args(
    *,
    max_num_seqs: int,
    max_model_len: int,
    workload: Workload,
    serving: Serving,
    moe_backend: str | None,
) -> dict[str, Any]:
    """The arguments to serve a Nemotron-H model with.

    - Prefix caching is off: with it, vLLM keeps Mamba states of prefixes, twice as many of them.
    - Experts are split by expert, not by tensor: their width does not divide into the kernels'
      groups.
    - Weights are read from safetensors only, and no code of a checkpoint is run.
    """
    args: dict[str, Any] = {
        "dtype": "bfloat16",
        "load_format": "safetensors",
        "tensor_parallel_size": workload.gpus,
        "enable_expert_parallel": workload.gpus > 1,
        "max_num_seqs": max_num_seqs,
        "max_model_len": max_model_len,
        "max_num_batched_tokens": serving.step_tokens,
        "enable_chunked_prefill": True,
        "enable_prefix_caching": False,
        "gpu_memory_utilization": serving.cache_share,
        "kv_cache_dtype": KV_DTYPES[serving.kv_dtype],
        "mamba_ssm_cache_dtype": STATE_DTYPES[serving.state_dtype],
    }
    if max_num_seqs > serving.graph_batch:
        args["max_cudagraph_capture_size"] = serving.graph_batch
    if workload.gpus > 1:
        args["distributed_executor_backend"] = "mp"
    if moe_backend:
        args["moe_backend"] = moe_backend
    return args


def problems(args: Mapping[str, Any], versions: str) -> list[str]:
    """What vLLM of these versions would refuse in `args`, one line each."""
    return argument_table.problems(args, table(versions), "engine_args")
