"""What fits on each GPU: weights and what a server needs beside them, then Mamba states, then KV
cache, in the order and by the rules of TensorRT-LLM (docs/planner.md says where they were read)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ...model.architecture import Model
from ...model.recipe import Recipe
from ...model.spec import Gpu
from ..engines.tensorrt_llm.arguments import FREE_GPU_MEMORY_FRACTION, MAX_NUM_TOKENS
from .holdings import Holdings
from .support import Runtime

GIB: Final = 2**30

RUNTIME_BYTES: Final = int(1.3 * GIB)
"""Of one process, outside torch: CUDA context and libraries (TensorRT-LLM issue 10580)."""

NCCL_BYTES: Final = int(0.41 * GIB)
"""More of that with several GPUs: 0.54 instead of 0.13 GiB in vLLM's logs of two H100 and one."""

WORKSPACE_BYTES: Final = int(1.5 * GIB)
"""Workspaces of attention and matrix products, the sampler, allocator slack. Assumed: with runtime
and activations it gives, within a tenth, the 4.9 GiB of a published vLLM log of Nano."""

CUDA_GRAPH_BYTES: Final = int(1.39 * GIB)
"""Captured graphs: the same log; 0.12 GiB in TensorRT-LLM issue 10580. The larger is planned."""

STATE_DTYPE: Final = "F32"
"""Of the recurrent state, as `llm_args` asks for it."""

TOKENS_PER_BLOCK: Final = 32
"""KV cache is handed out in blocks of this many tokens (TensorRT-LLM's default)."""

MAMBA_CHUNK: Final = 128
"""Tokens of one chunk of the state-space scan, in every published configuration."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one GPU: `fixed` is what weights and a server take whatever it serves, `left` the
    rest, which Mamba states and KV cache share. `kv_per_token` and `state` are of one GPU, too."""

    fixed: Mapping[str, int]
    left: int
    kv_per_token: int
    state: int
    runtime: Runtime

    def kv_budget(self, sequences: int) -> int:
        """Bytes for KV cache beside the states of `sequences`; below 0 where they do not fit.

        TensorRT-LLM takes a fraction of what is left; the states of 1.2 lie outside it (a pool
        that is made first), those of 1.3's late candidates inside.
        """
        states = (sequences + self.runtime.spare_state_slots) * self.state
        if self.runtime.state_in_fraction:
            return int(FREE_GPU_MEMORY_FRACTION * self.left) - states
        if states > self.left:
            return -1
        return int(FREE_GPU_MEMORY_FRACTION * (self.left - states))

    def _blocks(self, sequences: int) -> int:
        """Blocks of KV cache for sequences; one stays with the sequence that fills CUDA graphs."""
        return self.kv_budget(sequences) // (self.kv_per_token * TOKENS_PER_BLOCK) - 1

    def fits(self, sequences: int, context: int) -> bool:
        """Whether `sequences` of `context` tokens can be served at once."""
        if self.kv_budget(sequences) < 0:
            return False
        if not self.kv_per_token:
            return True
        # One token more than the context: the next step is scheduled before this one has ended.
        return sequences * -(-(context + 1) // TOKENS_PER_BLOCK) <= self._blocks(sequences)

    def max_concurrency(self, context: int) -> int:
        """Sequences of `context` tokens that fit at once."""
        least, most = 0, max(1, self.left // max(1, self.state + context * self.kv_per_token)) + 1
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if self.fits(middle, context) else (least, middle)
        return least

    def max_context(self, sequences: int) -> int:
        """Tokens each of `sequences` sequences may have."""
        if self.kv_budget(sequences) < 0:
            return 0
        if not self.kv_per_token:
            return 2**63 - 1
        return max(0, self._blocks(sequences) // sequences * TOKENS_PER_BLOCK - 1)

    def terms(self, sequences: int) -> dict[str, int]:
        """All bytes of the GPU with a server that is set up for `sequences`, by what they hold."""
        states = (sequences + self.runtime.spare_state_slots) * self.state
        states = max(0, min(self.left, states))
        cache = max(0, self.kv_budget(sequences))
        reserve = self.left - states - cache
        return {**self.fixed, "mamba_state": states, "kv_cache": cache, "reserve": reserve}

    def usable(self, sequences: int) -> int:
        """Bytes that the states of so many sequences and the KV cache may take together."""
        return sequences * self.state + max(0, self.kv_budget(sequences))


def memory(held: Holdings, recipe: Recipe, gpu: Gpu, gpus: int, runtime: Runtime) -> Memory:
    """Memory of each of `gpus` GPUs, the fullest."""
    fixed = {
        "driver": gpu.memory_bytes - gpu.cuda_bytes,
        "weights": held.weight_bytes(gpus),
        "runtime": RUNTIME_BYTES + (NCCL_BYTES if gpus > 1 else 0),
        "workspace": WORKSPACE_BYTES,
        "activations": activation_bytes(held.model, recipe, MAX_NUM_TOKENS, gpus),
        "cuda_graphs": CUDA_GRAPH_BYTES,
    }
    return Memory(
        fixed=fixed,
        left=gpu.memory_bytes - sum(fixed.values()),
        kv_per_token=held.kv_bytes_per_token(gpus),
        state=held.state_bytes_per_sequence(STATE_DTYPE, gpus),
        runtime=runtime,
    )


def activation_bytes(model: Model, recipe: Recipe, tokens: int, gpus: int) -> int:
    """What one forward pass over `tokens` tokens holds at once in the layer that holds most: an
    upper bound from the tensors that TensorRT-LLM's modules allocate, BF16 unless said."""
    residual = 3 * tokens * model.hidden_size * 2
    peaks = [residual + tokens * 2 * 2 * model.mlp_width // gpus]
    if "M" in model.pattern:
        peaks.append(residual + _mamba_bytes(model, tokens, gpus))
    if model.moe is not None:
        moe = model.moe
        # Rows sorted by expert go in and come out; FP8 keeps both beside the widened middle.
        wide = max(moe.latent, moe.width) if recipe.format == "fp8" else moe.width
        rows = moe.top_k * tokens * 2 * (moe.latent + wide)
        peaks.append(residual + rows + tokens * 2 * (moe.latent + 2 * moe.shared_width // gpus))
    return max(peaks)


def _mamba_bytes(model: Model, tokens: int, gpus: int) -> int:
    """Projected input, convolution copies, output, and the scan's states of every chunk."""
    m = model.mamba
    chunks = -(-tokens // MAMBA_CHUNK)
    wide = tokens * 2 * (m.in_proj_rows + 3 * m.conv_channels + m.inner)
    scan = chunks * m.state_values * (4 + 4) + 2 * tokens * m.num_heads * 4
    pairs = chunks * m.n_groups * MAMBA_CHUNK * MAMBA_CHUNK * 4
    return -(-(wide + scan + pairs) // gpus)
