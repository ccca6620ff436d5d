"""Run a checkpoint's decoder layers one after the other, with one of them in memory at a time.

The activations of all calibration sequences wait between layers, so the peak is one layer plus the
activations, whatever the model's size. After each layer they can be kept on disk, from where an
interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..core.errors import BadInputError
from ..core.files import write_atomically
from ..model.architecture import EMBEDDING, FINAL_NORM, HEAD, Model, TensorGroup
from ..model.checkpoint import Checkpoint

SOURCE_DTYPES: Final = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""What weights may be stored in, by safetensors' name of it."""

STORED_DTYPES: Final = {
    **SOURCE_DTYPES, "F8_E4M3": torch.float8_e4m3fn, "U8": torch.uint8, "I8": torch.int8,
    "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip
"""What tensors of a quantized checkpoint are stored in."""

KEPT_FLOAT32: Final = "e_score_correction_bias"
"""The one tensor that transformers keeps in float32 when a model is loaded in BF16."""


Read = Callable[[str], Tensor]
"""Gives the values of the parameter with that hub name."""


@dataclass(slots=True)
class Layer:
    """One decoder layer with its weights, and its inputs: one [1, tokens, hidden] a sequence."""

    index: int
    letter: str
    block: Any
    inputs: list[Tensor]

    def run(self, on_sequence: Callable[[int], None] | None = None) -> list[Tensor]:
        """The layer's outputs for all inputs."""
        outputs = []
        with torch.inference_mode():
            for done, hidden in enumerate(self.inputs, 1):
                positions = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
                outputs.append(self.block(hidden, position_ids=positions))
                if on_sequence:
                    on_sequence(done)
        return outputs


def read_tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    """The tensor `name` in its stored dtype. Raises `BadInputError` for one that is missing or no
    float."""
    info = checkpoint.tensors.get(name)
    if info is None:
        raise BadInputError(f"{checkpoint.path}: tensor {name} is missing")
    if info.dtype not in SOURCE_DTYPES:
        raise BadInputError(
            f"{info.shard}: tensor {name} has dtype {info.dtype}, not a floating-point one"
        )
    data = checkpoint.read(name)
    return torch.frombuffer(data, dtype=SOURCE_DTYPES[info.dtype]).view(info.shape)


def layers(
    checkpoint: Checkpoint,
    sequences: Sequence[Sequence[int]],
    *,
    device: str = "cpu",
    work: Path | None = None,
) -> Iterator[Layer]:
    """Yield the layers in order; each consumer must leave `layer.inputs` as the next one's inputs.

    That is: after its own work it assigns `layer.inputs = layer.run()`. With `work`, an existing
    directory, inputs are kept there before each layer, and layers that an earlier run with the same
    `work` passed are not yielded again.
    """
    config, read = transformers_config(checkpoint), partial(read_tensor, checkpoint)
    start, hidden = resume(work)
    if hidden is None:
        table = read(EMBEDDING).bfloat16()
        hidden = [table[torch.tensor([ids])] for ids in sequences]
        del table
    hidden = [tensor.to(device) for tensor in hidden]
    for index in range(start, len(checkpoint.model.pattern)):
        block = load_block(checkpoint.model, config, index, read).to(device)
        layer = Layer(index, checkpoint.model.pattern[index], block, hidden)
        yield layer
        hidden = layer.inputs
        del block, layer
        keep(work, index + 1, hidden)


def load_block(
    model: Model, config: Any, index: int, read: Read, dtype: torch.dtype = torch.bfloat16
) -> Any:
    """Decoder layer `index` of `model` as transformers' own class, in `dtype`, with the values that
    `read` gives."""
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHBlock

    def values(name: str) -> Tensor:
        return read(name).to(torch.float32 if name.endswith(KEPT_FLOAT32) else dtype)

    state = {}
    for group in layer_groups(model, index):
        first, *others = group.names()
        tensor = values(first)
        if group.is_expert:
            fused = tensor.new_empty(group.count, *tensor.shape)
            fused[0] = tensor
            for row, name in zip(fused[1:], others, strict=True):
                row.copy_(values(name))
            tensor = fused
        state[parameter_name(group, index)] = tensor
    with torch.device("meta"):
        make: Any = NemotronHBlock
        block = make(config, index)
    block.load_state_dict(state, assign=True)
    block.train(False)
    return block.requires_grad_(False)


def layer_groups(model: Model, index: int) -> list[TensorGroup]:
    """The tensors of decoder layer `index`."""
    prefix = _layer_prefix(index)
    return [group for group in model.tensors() if group.template.startswith(prefix)]


def parameter_name(group: TensorGroup, index: int) -> str:
    """The parameter of layer `index`'s block that holds `group`: the experts of a layer are one."""
    name = group.template.removeprefix(_layer_prefix(index))
    return name.replace(".{}.", ".").removesuffix(".weight") if group.is_expert else name


def _layer_prefix(index: int) -> str:
    return f"backbone.layers.{index}."


def next_token_head(
    model: Model, read: Read, device: str, dtype: torch.dtype = torch.float32
) -> Callable[[Tensor], Tensor]:
    """The final norm and the head: gives the log-probabilities float32 [..., vocabulary] of hidden
    states [..., hidden]. The norm is computed in float32, the product with the head in `dtype`."""
    norm = read(FINAL_NORM).float().to(device)
    table = read(EMBEDDING if model.tied else HEAD).to(dtype).to(device)

    def log_probabilities(hidden: Tensor) -> Tensor:
        hidden = hidden.float()
        variance = hidden.square().mean(-1, keepdim=True)
        normed = hidden * torch.rsqrt(variance + model.norm_epsilon) * norm
        return (normed.to(dtype) @ table.T).float().log_softmax(-1)

    return log_probabilities


def transformers_config(checkpoint: Checkpoint) -> Any:
    """The configuration for transformers' native class; remote code is never followed."""
    from transformers import NemotronHConfig
    from transformers.utils import logging

    quiet: Any = logging.set_verbosity_error
    quiet()  # it would advise on kernels that nobody here wants
    left_out = ("auto_map", "quantization_config")
    fields = {key: value for key, value in checkpoint.config.items() if key not in left_out}
    config = NemotronHConfig(**fields)
    # Plain implementations: the ones every machine has, and through which quantizers can look.
    config._attn_implementation = "sdpa"
    config._experts_implementation = "eager"
    return config


def resume(work: Path | None) -> tuple[int, list[Tensor] | None]:
    """The first unfinished layer and its inputs, from what an earlier run saved."""
    if work is None:
        return 0, None
    kept = sorted(work.glob("inputs-*.safetensors"))
    if not kept:
        return 0, None
    from safetensors.torch import load_file

    tensors = load_file(kept[-1])
    index = int(kept[-1].stem.partition("-")[2])
    return index, [tensors[name] for name in sorted(tensors)]


def keep(work: Path | None, index: int, hidden: Sequence[Tensor]) -> None:
    """Save the inputs of layer `index`; those of earlier layers are no longer needed."""
    if work is None:
        return
    from safetensors.torch import save

    named = {f"{number:06}": tensor.cpu().contiguous() for number, tensor in enumerate(hidden)}
    write_atomically(work / f"inputs-{index:04}.safetensors", save(named))
    for old in work.glob("inputs-*.safetensors"):
        if int(old.stem.partition("-")[2]) < index:
            old.unlink()
