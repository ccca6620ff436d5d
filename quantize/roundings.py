"""What an engine rounds besides the weights: inputs of quantized products, keys and values, and the
Mamba state. As hooks on transformers' layers, and as a way to run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..runtime import formats

Rounding = Callable[[Tensor], Tensor]
"""Gives values as they are after they were stored in a smaller format."""

STATE_DTYPES: Final = {"BF16": torch.bfloat16, "F16": torch.float16}
"""What a Mamba state is rounded to, by safetensors' name; F32 is not rounded."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a server rounds whatever the checkpoint says: keys and values to FP8 (with a scale of 1
    where none is stored), and the Mamba state to `state`, by safetensors' name."""

    fp8_kv: bool = False
    state: str = "F32"


def to_fp8(amax: float) -> Rounding:
    """FP8 with the scale of a largest magnitude `amax`, saturating."""
    scale = amax / formats.FP8_MAX

    def rounded(values: Tensor) -> Tensor:
        limited = (values / scale).clamp(-formats.FP8_MAX, formats.FP8_MAX)
        return limited.to(torch.float8_e4m3fn).to(values.dtype) * scale

    return rounded


def to_nvfp4(scale: float) -> Rounding:
    """NVFP4 with `scale` for the whole tensor, and a scale for each group of its last dimension."""
    table = torch.tensor(formats.E2M1_VALUES)
    middles = torch.tensor([(low + high) / 2 for low, high in pairwise(formats.E2M1_VALUES)])

    def rounded(values: Tensor) -> Tensor:
        groups = values.float().view(*values.shape[:-1], -1, formats.NVFP4_GROUP)
        wanted = groups.abs().amax(-1, keepdim=True) / (formats.E2M1_MAX * scale)
        own = wanted.clamp(max=formats.FP8_MAX).to(torch.float8_e4m3fn).float() * scale
        steps = torch.where(own > 0, groups.abs() / own, 0.0)
        nearest = table.to(values.device)[torch.bucketize(steps, middles.to(values.device))]
        return (nearest * own * groups.sign()).view(values.shape).to(values.dtype)

    return rounded


def round_activations(block: Any, index: int, roundings: Mapping[str, Rounding]) -> None:
    """Make the layer `block` round: the inputs of each weight matrix that `roundings` names, and
    keys and values, which are named `….k_proj.k_scale` and `….v_proj.v_scale`."""
    prefix = f"backbone.layers.{index}."
    for name, module in block.named_modules():
        path = f"{prefix}{name}"
        if rounding := roundings.get(f"{path}.weight"):
            module.register_forward_pre_hook(_on_input(rounding))
        for side in ("k", "v"):
            if rounding := roundings.get(f"{path}.{side}_scale"):
                module.register_forward_hook(_on_output(rounding))
        # All experts of a layer share one scale a projection, and they are one fused module.
        if rounding := roundings.get(f"{path}.0.up_proj.weight"):
            module.register_forward_pre_hook(_on_input(rounding))
        if rounding := roundings.get(f"{path}.0.down_proj.weight"):
            module.act_fn.register_forward_hook(_on_output(rounding))


def _on_input(
    rounding: Rounding,
) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    return lambda module, args: (rounding(args[0]), *args[1:])


def _on_output(rounding: Rounding) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    return lambda module, args, output: rounding(output)


class RoundedState:
    """The cache of one Mamba layer, as transformers' layer uses it, whose recurrent state is stored
    in `dtype`. A step computes with the exact new state and stores the rounded one, as engines do.
    """

    def __init__(self, dtype: torch.dtype, kernel: int) -> None:
        self.layers = self
        self.conv_states: list[Tensor] = []
        self.recurrent_states: list[Tensor] = []
        self._dtype, self._kernel = dtype, kernel

    def __getitem__(self, layer: int) -> RoundedState:
        return self

    def has_previous_state(self, layer: int) -> bool:
        return bool(self.recurrent_states)

    def update_conv_state(self, new: Tensor, layer: int) -> Tensor:
        joined = torch.cat([*self.conv_states, new], dim=-1)
        self.conv_states = [joined[..., -self._kernel :]]
        return self.conv_states[0]

    def update_recurrent_state(self, new: Tensor, layer: int) -> Tensor:
        self.recurrent_states = [new.to(self._dtype).to(new.dtype)]
        return new

    @classmethod
    def joined(cls, states: Sequence[RoundedState]) -> RoundedState:
        """The states of several sequences as one batch."""
        whole = cls(states[0]._dtype, states[0]._kernel)
        whole.conv_states = [torch.cat([state.conv_states[0] for state in states])]
        whole.recurrent_states = [torch.cat([state.recurrent_states[0] for state in states])]
        return whole


def run_mamba(
    block: Any, inputs: Sequence[Tensor], prompts: Sequence[int], dtype: torch.dtype
) -> list[Tensor]:
    """The outputs of a Mamba layer for `inputs` [1, tokens, hidden] as a server computes them that
    keeps the state in `dtype`: the first tokens, as many as `prompts` says, at once, and each of
    the others in a step of its own. The state is rounded after the prompt and after each step."""
    states, outputs, rest = [], [], []
    with torch.inference_mode():
        for hidden, count in zip(inputs, prompts, strict=True):
            state = RoundedState(dtype, block.mixer.conv_kernel_size)
            outputs.append([block(hidden[:, :count], past_key_values=state)])
            states.append(state)
            rest.append(hidden[0, count:])
        # Sequences that have ended go on with padding, which nothing looks at.
        steps = nn.utils.rnn.pad_sequence(rest, batch_first=True)
        batch = RoundedState.joined(states)
        for step in range(steps.shape[1]):
            stepped = block(steps[:, step : step + 1], past_key_values=batch)
            for number, tokens in enumerate(rest):
                if step < len(tokens):
                    outputs[number].append(stepped[number : number + 1])
    return [torch.cat(parts, dim=1) for parts in outputs]
