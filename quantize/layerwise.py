"""Run a checkpoint's decoder layers one after the other, with one of them in memory at a time.

The activations of all calibration sequences wait between layers, so the peak is one layer plus the
activations, whatever the model's size. After each layer they can be kept on disk, from where an
interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..core.errors import BadInputError
from ..core.files import write_atomically
from ..model.checkpoint import Checkpoint

SOURCE_DTYPES: Final = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""What weights may be stored in, by safetensors' name of it."""

KEPT_FLOAT32: Final = "e_score_correction_bias"
"""The one tensor that transformers keeps in float32 when a model is loaded in BF16."""


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
    """The tensor `name` in its stored dtype. Raises `BadInputError` for one that is no float."""
    info = checkpoint.tensors[name]
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
    config = transformers_config(checkpoint)
    start, hidden = _resume(work)
    if hidden is None:
        table = read_tensor(checkpoint, "backbone.embeddings.weight").bfloat16()
        hidden = [table[torch.tensor([ids])] for ids in sequences]
        del table
    hidden = [tensor.to(device) for tensor in hidden]
    for index in range(start, len(checkpoint.model.pattern)):
        block = load_block(checkpoint, config, index).to(device)
        layer = Layer(index, checkpoint.model.pattern[index], block, hidden)
        yield layer
        hidden = layer.inputs
        del block, layer
        _keep(work, index + 1, hidden)


def load_block(
    checkpoint: Checkpoint,
    config: Any,
    index: int,
    dtype: torch.dtype = torch.bfloat16,
    transform: Callable[[str, Tensor], Tensor] | None = None,
) -> Any:
    """Decoder layer `index` as transformers' own class, in `dtype`, with the checkpoint's weights,
    or with what `transform(name, tensor)` makes of them."""
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHBlock

    def read(name: str) -> Tensor:
        tensor = read_tensor(checkpoint, name)
        tensor = transform(name, tensor) if transform else tensor
        return tensor.to(torch.float32 if name.endswith(KEPT_FLOAT32) else dtype)

    prefix = f"backbone.layers.{index}."
    state = {
        name.removeprefix(prefix): read(name)
        for name in checkpoint.tensors
        if name.startswith(prefix) and ".experts." not in name
    }
    moe = checkpoint.model.moe
    if checkpoint.model.pattern[index] == "E" and moe is not None:
        for projection in ("up_proj", "down_proj"):
            names = [
                f"{prefix}mixer.experts.{k}.{projection}.weight" for k in range(moe.num_experts)
            ]
            first = read(names[0])
            fused = first.new_empty(len(names), *first.shape)
            for row, name in zip(fused, names, strict=True):
                row.copy_(read(name))
            state[f"mixer.experts.{projection}"] = fused
    with torch.device("meta"):
        make: Any = NemotronHBlock
        block = make(config, index)
    block.load_state_dict(state, assign=True)
    block.train(False)
    return block.requires_grad_(False)


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


def _resume(work: Path | None) -> tuple[int, list[Tensor] | None]:
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


def _keep(work: Path | None, index: int, hidden: list[Tensor]) -> None:
    """Save the inputs of layer `index`; those of earlier layers are no longer needed."""
    if work is None:
        return
    from safetensors.torch import save

    named = {f"{number:06}": tensor.cpu().contiguous() for number, tensor in enumerate(hidden)}
    write_atomically(work / f"inputs-{index:04}.safetensors", save(named))
    for old in work.glob("inputs-*.safetensors"):
        if int(old.stem.partition("-")[2]) < index:
            old.unlink()
