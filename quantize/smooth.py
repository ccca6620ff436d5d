"""Activation-aware smoothing for INT4 experts, folded exactly into the model's own weights.

Rounding to INT4 costs the same for every input channel of a group; what it does to the output grows
with the channel's activations. Scaling salient channels up before rounding protects them, if the
inverse can be hidden somewhere. In this architecture it can, so a runtime needs no extra scale:

- hidden side: everything that reads the norm's output in an `E` layer (router, shared `up_proj`,
  every routed `up_proj`) takes `W diag(s)`, and `norm.weight` takes `/ s`;
- expert side: relu2(a x) = a^2 relu2(x) for a > 0, so `down_proj` takes `W diag(u)` and row i of
  `up_proj` takes `/ sqrt(u_i)`. A row's scale costs INT4 nothing: its group scales absorb it.

Strengths are searched per layer and side on calibration activations, as AWQ does (arXiv
2306.00978): scale = (root mean square of the activation) ^ strength; the mean square, because rare
large activations are what hurts after relu2. Strength 0 is plain rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from ..runtime.formats import decode_int4, encode_int4
from .calibration_record import SmoothingRecord
from .layerwise import Layer

STRENGTHS: Final = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

MAX_TOKENS: Final = 512
"""Activations an expert is judged by, at most."""

MAX_EXPERTS: Final = 32
"""Routed experts that judge a layer's hidden side, the most used first; all of them take part in
the smoothing, and each is searched for its own expert side."""

_SPREAD: Final = 1e4
"""Largest ratio between two scales of one tensor."""


@dataclass(slots=True)
class Choice:
    """The result of one layer's search. Errors are relative to the exact output, over all
    judged experts; `plain` without smoothing, `smoothed` with it."""

    layer: int
    hidden_strength: float
    expert_strengths: list[float]
    plain: float
    smoothed: float
    tokens: list[int]


@dataclass(slots=True)
class Folding:
    """Scales to fold, by tensor name: multiply columns (`inputs`) and rows (`outputs`) by them.

    A norm's weight is one column of factors. All float32 and on the CPU, where weights are encoded,
    whatever device they were searched on.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    choices: dict[int, Choice] = field(default_factory=dict)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor `name` with its scales folded in: float32, or as it is without any."""
        if name not in self.inputs and name not in self.outputs:
            return tensor
        folded = tensor.float()
        if name in self.inputs:
            folded = folded * self.inputs[name]
        if name in self.outputs:
            folded = folded * self.outputs[name].unsqueeze(-1)
        return folded


@dataclass(slots=True)
class _Expert:
    """One expert's weights [I, H], [H, I] as stored, and the inputs [T, H] that it saw."""

    prefix: str
    stored_up: Tensor
    stored_down: Tensor
    inputs: Tensor

    @property
    def up(self) -> Tensor:
        """Float32, made when it is needed: those of all experts at once would double the layer."""
        return self.stored_up.float()

    @property
    def down(self) -> Tensor:
        return self.stored_down.float()


def smooth_layer(layer: Layer, group_size: int, folding: Folding) -> Choice:
    """Search the scales of the `E` layer `layer` and add them to `folding`.

    The layer's inputs are run through its norm and router once more; nothing in it is changed.
    """
    norm_output, seen = _routed(layer)
    experts = _experts(layer, norm_output, seen)
    prefix = f"backbone.layers.{layer.index}."
    latent = not isinstance(layer.block.mixer.fc1_latent_proj, nn.Identity)
    judges = sorted(experts, key=lambda expert: -len(expert.inputs))[:MAX_EXPERTS]
    strength, scale = 0.0, norm_output.new_ones(norm_output.shape[1])
    if not latent:
        strength, scale = _hidden_side(norm_output, judges, group_size)
        scale = _fold_norm(prefix, layer, scale, folding)
    before = after = total = 0.0
    strengths = []
    for expert in experts:
        side = _expert_side(expert, scale, group_size)
        strengths.append(side.strength)
        before, after, total = before + side.plain, after + side.smoothed, total + side.power
        folding.inputs[f"{expert.prefix}.up_proj.weight"] = scale.cpu()
        folding.outputs[f"{expert.prefix}.up_proj.weight"] = side.scale.rsqrt().cpu()
        folding.inputs[f"{expert.prefix}.down_proj.weight"] = side.scale.cpu()
    choice = Choice(
        layer.index,
        strength,
        strengths,
        plain=(before / total) ** 0.5 if total else 0.0,
        smoothed=(after / total) ** 0.5 if total else 0.0,
        tokens=[int(count) for count in seen.sum(0)],
    )
    folding.choices[layer.index] = choice
    return choice


def _routed(layer: Layer) -> tuple[Tensor, Tensor]:
    """The norm's output for all tokens [T, H], float32, and which experts each went to [T, E]."""
    block = layer.block
    rows, chosen = [], []
    with torch.inference_mode():
        for hidden in layer.inputs:
            normed = block.norm(hidden)
            _, _, indices = block.mixer.gate(normed)
            rows.append(normed.reshape(-1, normed.shape[-1]).float())
            chosen.append(indices)
    count = block.mixer.experts.num_experts
    hits = torch.nn.functional.one_hot(torch.cat(chosen), count).sum(1).bool()
    return torch.cat(rows), hits


def _experts(layer: Layer, norm_output: Tensor, seen: Tensor) -> list[_Expert]:
    """Routed experts and the shared one, each with (at most `MAX_TOKENS` of) its own inputs."""
    mixer, prefix = layer.block.mixer, f"backbone.layers.{layer.index}.mixer"
    with torch.inference_mode():
        latent = mixer.fc1_latent_proj(norm_output.to(mixer.experts.up_proj.dtype)).float()
    experts = []
    for number in range(mixer.experts.num_experts):
        inputs = _thinned(latent[seen[:, number]])
        up, down = mixer.experts.up_proj[number], mixer.experts.down_proj[number]
        experts.append(_Expert(f"{prefix}.experts.{number}", up, down, inputs))
    shared = mixer.shared_experts
    up, down = shared.up_proj.weight, shared.down_proj.weight
    name = f"{prefix}.shared_experts"
    experts.append(_Expert(name, up, down, _thinned(norm_output)))
    return experts


def _thinned(rows: Tensor) -> Tensor:
    """At most `MAX_TOKENS` rows, evenly spaced."""
    step = max(1, -(-len(rows) // MAX_TOKENS))
    return rows[::step]


def _hidden_side(
    norm_output: Tensor, judges: Sequence[_Expert], group_size: int
) -> tuple[float, Tensor]:
    """The strength and scale [H] with the least error of all judging `up_proj` outputs."""
    salience = _rms(norm_output)

    def error(scale: Tensor) -> float:
        return sum(_output_error(e.up, e.inputs, scale, group_size) for e in judges)

    return _best(salience, error)


@dataclass(frozen=True, slots=True)
class _Side:
    strength: float
    scale: Tensor
    plain: float
    smoothed: float
    power: float


def _expert_side(expert: _Expert, hidden_scale: Tensor, group_size: int) -> _Side:
    """The scale [I] of one expert's `down_proj`, and its output error without and with smoothing.

    Judged by the expert's own quantized `up_proj`, so that errors add up as they will.
    """
    if not len(expert.inputs):
        ones = hidden_scale.new_ones(expert.stored_down.shape[1])
        return _Side(0.0, ones, 0.0, 0.0, 0.0)
    exact_up, exact_down = expert.up, expert.down
    exact = torch.relu(expert.inputs @ exact_up.T).square()
    strength, scale = _best(
        _rms(exact), lambda tried: _output_error(exact_down, exact, tried, group_size)
    )
    wanted = exact @ exact_down.T
    results = []
    for up_scale, down_scale in (
        (torch.ones_like(hidden_scale), torch.ones_like(scale)),
        (hidden_scale, scale),
    ):
        up = _rounded(exact_up, up_scale, group_size)
        down = _rounded(exact_down, down_scale, group_size)
        output = torch.relu(expert.inputs @ up.T).square() @ down.T
        results.append(float((output - wanted).square().sum()))
    return _Side(strength, scale, results[0], results[1], float(wanted.square().sum()))


def _rms(activations: Tensor) -> Tensor:
    """Root mean square of each channel of [T, K]."""
    return activations.square().mean(0).sqrt()


def _best(salience: Tensor, error: Callable[[Tensor], float]) -> tuple[float, Tensor]:
    """The strength of least error, and its scale: salience ^ strength, centred around 1."""
    candidates = [(strength, _scale(salience, strength)) for strength in STRENGTHS]
    errors = [error(scale) for _, scale in candidates]
    return candidates[errors.index(min(errors))]


def _scale(salience: Tensor, strength: float) -> Tensor:
    clamped = salience.clamp(min=float(salience.max()) / _SPREAD) if salience.any() else None
    if clamped is None or strength == 0.0:
        return torch.ones_like(salience)
    scale = clamped**strength
    return scale / (scale.max() * scale.min()).sqrt()


def _output_error(weight: Tensor, inputs: Tensor, scale: Tensor, group_size: int) -> float:
    """Sum of squared output errors of `weight` [N, K] rounded with `scale` [K] on inputs [T, K]."""
    return float((inputs @ (_rounded(weight, scale, group_size) - weight).T).square().sum())


def _rounded(weight: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """What `weight` becomes when it is scaled, stored as INT4, and scaled back."""
    return decode_int4(*encode_int4(weight * scale, group_size)) / scale


def _fold_norm(prefix: str, layer: Layer, scale: Tensor, folding: Folding) -> Tensor:
    """Fold the hidden side's inverse into the norm; returns the scale that consumers must apply.

    The norm's weight is stored in BF16: the consumers take exactly what that rounding left, so the
    folding adds no error of its own (where the norm's weight is 0, any scale will do).
    """
    norm = layer.block.norm.weight
    stored = (norm.float() / scale).to(norm.dtype).float()
    exact = torch.where(stored != 0, norm.float() / stored, torch.ones_like(scale))
    folding.inputs[f"{prefix}norm.weight"] = (1.0 / exact).cpu()
    folding.inputs[f"{prefix}mixer.gate.weight"] = exact.cpu()
    return exact


def report(choices: Iterable[Choice]) -> list[SmoothingRecord]:
    """The choices as the record keeps them."""
    return [
        SmoothingRecord(
            layer=choice.layer,
            hidden_strength=choice.hidden_strength,
            expert_strength_mean=sum(choice.expert_strengths) / len(choice.expert_strengths),
            output_error_plain=choice.plain,
            output_error_smoothed=choice.smoothed,
        )
        for choice in choices
    ]
