"""A FAKE of the part of vLLM that the production executor uses; no engine, no model.

It answers a prompt with the prompt's own tokens, over and over. Signatures and behaviour follow
vllm-project/vllm at v0.24.0 and v0.27.1; the files are named in each module. What it shares with
upstream and makes callers stumble:

- a delta may have no tokens, or several;
- an aborted request ends with an empty delta, whose log-probabilities are those of all its tokens;
- the log-probabilities of the prompt come with the first delta, and begin with None;
- a dead engine fails whatever waits for it, and refuses what comes;
- a refused value is a ValueError up to 0.24, and later a `VLLMClientError`, which is none.
"""

from dataclasses import dataclass
from typing import Any

from .sampling_params import SamplingParams


@dataclass
class AsyncEngineArgs:
    """Some fields of vllm/engine/arg_utils.py; any other one is a TypeError, as there."""

    model: str
    trust_remote_code: bool = False
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    gpu_memory_utilization: float = 0.92
    enable_prefix_caching: bool | None = None
    structured_outputs_config: Any = None
    disable_log_stats: bool = False


__version__ = "0.27.1"
__all__ = ["AsyncEngineArgs", "SamplingParams"]
