"""Memory that a server takes beside weights and caches, whatever the engine: activations, what the
allocator holds beside them, and CUDA graphs (docs/planner.md says what it was compared with)."""

from __future__ import annotations

from typing import Final

from ...model.architecture import SCAN_CHUNK, Model
from ...model.recipe import Recipe

GIB: Final = 2**30

RUNTIME_BYTES: Final = int(1.3 * GIB)
"""Of one process, outside torch: CUDA context and libraries (TensorRT-LLM issue 10580)."""

NCCL_BYTES: Final = int(0.41 * GIB)
"""More of that with several GPUs: 0.54 instead of 0.13 GiB in vLLM's logs of two H100 and one."""

SCRATCH_BYTES: Final = int(0.4 * GIB)
"""Workspaces of matrix products and attention on two streams, and the sampler's logits. Assumed."""

SLACK: Final = 0.75
"""What the allocator holds beside the activations, as a share of them. An estimate: with it,
runtime, scratch and activations take 4.89 GiB for steps of 16384 tokens of Nano; a vLLM log of it
has 4.92."""

GRAPH_LAYER_BYTES: Final = int(1.39 * GIB / 102 / 52)
"""Of a captured CUDA graph, for each layer: the same log has 1.39 GiB for 102 graphs of 52 layers,
14 MiB each. TensorRT-LLM issue 10580 has 0.12 GiB for 12 of them, 10 MiB each."""


def server_bytes(
    model: Model, recipe: Recipe, gpus: int, tokens: int, graphs: int
) -> dict[str, int]:
    """Bytes that a process takes on one of `gpus` GPUs for steps of `tokens` tokens and so many
    CUDA graphs, by what they are for."""
    activations = activation_bytes(model, recipe, tokens, gpus)
    return {
        "runtime": RUNTIME_BYTES + (NCCL_BYTES if gpus > 1 else 0),
        "workspace": SCRATCH_BYTES + int(SLACK * activations),
        "activations": activations,
        "cuda_graphs": graphs * len(model.pattern) * GRAPH_LAYER_BYTES,
    }


def activation_bytes(model: Model, recipe: Recipe, tokens: int, gpus: int) -> int:
    """Most bytes that one layer holds during a forward pass over `tokens` tokens: an upper bound
    from the tensors that TensorRT-LLM's modules allocate, in BF16 except where noted."""
    residual = 3 * tokens * model.hidden_size * 2
    peaks = [residual + tokens * 2 * 2 * model.mlp_width // gpus]
    if "M" in model.pattern:
        peaks.append(residual + _mamba_bytes(model, tokens, gpus))
    for moe in set(model.expert_layers):
        # Rows sorted by expert go in and come out; FP8 keeps both beside the widened middle.
        wide = max(moe.latent, moe.width) if recipe.key == "fp8" else moe.width
        rows = moe.top_k * tokens * 2 * (moe.latent + wide)
        peaks.append(residual + rows + tokens * 2 * (moe.latent + 2 * moe.shared_width // gpus))
    return max(peaks)


def _mamba_bytes(model: Model, tokens: int, gpus: int) -> int:
    """Projected input, convolution copies, output, and the scan's states of every chunk."""
    m = model.mamba
    chunks = -(-tokens // SCAN_CHUNK)
    wide = tokens * 2 * (m.in_proj_rows + 3 * m.conv_channels + m.inner)
    scan = chunks * m.state_values * (4 + 4) + 2 * tokens * m.num_heads * 4
    pairs = chunks * m.n_groups * SCAN_CHUNK * SCAN_CHUNK * 4
    return -(-(wide + scan + pairs) // gpus)
