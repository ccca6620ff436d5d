"""A model's architecture: what kinds of layers it has, and every tensor that follows from them.

A `Model` is read from a `config.json` (`config.read_model`) and knows every tensor that a
checkpoint of it must hold, so parameters, bytes and cache sizes are sums over shapes, no estimates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from itertools import repeat
from typing import Any, Final

from ..core.errors import RefusedError

ARCHITECTURE: Final = "NemotronHForCausalLM"

EMBEDDING: Final = "backbone.embeddings.weight"
FINAL_NORM: Final = "backbone.norm_f.weight"
HEAD: Final = "lm_head.weight"
"""Names of the tensors beside the layers."""

DTYPE_BYTES: Final[Mapping[str, float]] = {
    "F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2,
    "U64": 8, "U32": 4, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "U8": 1, "I8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes per element of a safetensors dtype."""

SCAN_CHUNK: Final = 128
"""Tokens of one chunk of Mamba's state-space scan, in every published configuration."""


class Role(StrEnum):
    """What a tensor does. Quantization recipes and memory terms are chosen by role."""

    EMBEDDING = "embedding"
    HEAD = "head"
    NORM = "norm"
    ROUTER = "router"
    ROUTER_BIAS = "router_bias"
    EXPERT = "expert"
    SHARED_EXPERT = "shared_expert"
    LATENT = "latent"
    MLP = "mlp"
    MAMBA_PROJ = "mamba_proj"
    MAMBA_OTHER = "mamba_other"
    ATTENTION = "attention"
    MTP = "mtp"


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """Tensors of one shape and role. `template` holds `{}` once when `count` experts share it, of
    which a token goes to `chosen`.

    `layer` is the index of its layer, None outside of the layers and in MTP's.
    `feeds_attention` says that the next layer is an attention layer.
    """

    template: str
    shape: tuple[int, ...]
    role: Role
    dtype: str = "BF16"
    count: int = 1
    chosen: int = 1
    layer: int | None = None
    feeds_attention: bool = False

    @property
    def parameters(self) -> int:
        return self.count * math.prod(self.shape)

    @property
    def parameters_active(self) -> int:
        """Parameters that one token is multiplied with."""
        return self.parameters * self.chosen // self.count

    @property
    def bytes(self) -> int:
        return int(self.parameters * DTYPE_BYTES[self.dtype])

    @property
    def makes_kv(self) -> bool:
        """Whether it projects to the keys or values that are cached (MTP's are not)."""
        ends = ("k_proj.weight", "v_proj.weight")
        return self.role is Role.ATTENTION and self.template.endswith(ends)

    @property
    def is_expert(self) -> bool:
        """Whether it holds one tensor for each routed expert."""
        return "{}" in self.template

    def names(self) -> Iterator[str]:
        if not self.is_expert:
            yield self.template
            return
        for index in range(self.count):
            yield self.template.format(index)


@dataclass(frozen=True, slots=True)
class Mamba:
    """Mamba-2 mixer. `inner` = heads x head_dim; the convolution runs over x, B and C."""

    num_heads: int
    head_dim: int
    n_groups: int
    state_size: int
    conv_kernel: int
    conv_bias: bool
    proj_bias: bool

    @property
    def inner(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        return self.inner + 2 * self.n_groups * self.state_size

    @property
    def in_proj_rows(self) -> int:
        return self.inner + self.conv_channels + self.num_heads

    @property
    def state_values(self) -> int:
        """Recurrent state of one layer and sequence, in values."""
        return self.num_heads * self.head_dim * self.state_size

    @property
    def conv_values(self) -> int:
        """Convolution state of one layer and sequence: the last `conv_kernel - 1` inputs."""
        return (self.conv_kernel - 1) * self.conv_channels


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention without rotary embedding."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    bias: bool


@dataclass(frozen=True, slots=True)
class Moe:
    """Routed and shared experts, not gated: `down(relu2(up(x)))`.

    `latent` is the width the routed experts work in (the hidden size where there is no latent).
    """

    num_experts: int
    top_k: int
    width: int
    shared_width: int
    num_shared: int
    latent: int
    has_latent: bool

    @property
    def routed_values(self) -> int:
        """Parameters of the routed experts of one layer, biases aside."""
        return self.num_experts * 2 * self.latent * self.width


@dataclass(frozen=True, slots=True)
class PlannedOnly:
    """Why a model is planned and never built: the rule's key, the reason as a sentence, and what
    works instead."""

    rule: str
    reason: str
    alternatives: tuple[str, ...] = ()

    def refusal(self, name: str) -> RefusedError:
        """The refusal to do more with the model `name` than to plan it."""
        return RefusedError(
            f"{name} can be inspected and planned, not quantized or built (rule: {self.rule}). "
            f"{self.reason} What works instead: {'; '.join(self.alternatives) or 'plan'}."
        )


def generic_name(name: str) -> str:
    """A tensor's name with `#` in place of layer and expert numbers (or of `{}`)."""
    return re.sub(r"\.(\d+|\{\})\.", ".#.", name)


@dataclass(frozen=True, slots=True)
class Model:
    """A Nemotron-H model as its configuration describes it.

    `pattern` has one letter a layer: `M` Mamba-2, `E` mixture of experts, `*` attention, `-` dense
    MLP. `mtp_pattern` is that of one step of multi-token prediction, of which there are `mtp_steps`
    with weights of their own; empty where there are none.

    Every `E` layer has the experts `moe`, unless `layer_moes` has those of each one, and
    `mtp_moes` those of each one of `mtp_pattern`: `moe` are the largest of them then.
    `planned_only` is set for a model that is never built. `notes` say in a line each what of the
    configuration was read in another spelling.
    """

    name: str
    pattern: str
    mtp_pattern: str
    mtp_steps: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    tied: bool
    mlp_width: int
    mlp_bias: bool
    norm_epsilon: float
    mamba: Mamba
    attention: Attention
    moe: Moe | None
    config: Mapping[str, Any] = field(repr=False, compare=False)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    """Stored dtypes other than the usual ones, by tensor name with `#` for layer and expert."""
    layer_moes: tuple[Moe, ...] = ()
    mtp_moes: tuple[Moe, ...] = ()
    planned_only: PlannedOnly | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def expert_layers(self) -> tuple[Moe, ...]:
        """The experts of each `E` layer, in order."""
        layers = self._layers(self.pattern, self.layer_moes)
        return tuple(moe for _, moe in layers if moe is not None)

    def layer_count(self, letter: str) -> int:
        return self.pattern.count(letter)

    def tensors(self) -> tuple[TensorGroup, ...]:
        """Every tensor of a checkpoint with hub names, grouped where experts repeat."""
        hidden, vocab = self.hidden_size, self.vocab_size
        groups = [TensorGroup(EMBEDDING, (vocab, hidden), Role.EMBEDDING)]
        for index, (letter, moe) in enumerate(self._layers(self.pattern, self.layer_moes)):
            feeds = self.pattern[index + 1 : index + 2] == "*"
            groups += [
                replace(group, layer=index, feeds_attention=feeds)
                for group in self._layer(f"backbone.layers.{index}.", letter, moe)
            ]
        groups.append(TensorGroup(FINAL_NORM, (hidden,), Role.NORM))
        if not self.tied:
            groups.append(TensorGroup(HEAD, (vocab, hidden), Role.HEAD))
        groups += self._mtp()
        if not self.dtypes:
            return tuple(groups)
        return tuple(
            replace(group, dtype=self.dtypes.get(generic_name(group.template), group.dtype))
            for group in groups
        )

    def _layers(self, pattern: str, moes: tuple[Moe, ...]) -> Iterator[tuple[str, Moe | None]]:
        """The letter of each layer of `pattern`, and the experts of one that has any."""
        experts = iter(moes) if moes else repeat(self.moe)
        for letter in pattern:
            yield letter, next(experts) if letter == "E" else None

    def _layer(self, prefix: str, letter: str, moe: Moe | None) -> list[TensorGroup]:
        norm = TensorGroup(prefix + "norm.weight", (self.hidden_size,), Role.NORM)
        if moe is not None:
            return [norm, *self._moe(prefix + "mixer.", moe)]
        mixer = {"M": self._mamba, "*": self._attention, "-": self._mlp}[letter]
        return [norm, *mixer(prefix + "mixer.")]

    def _mamba(self, prefix: str) -> list[TensorGroup]:
        m, hidden, role = self.mamba, self.hidden_size, Role.MAMBA_OTHER
        shapes: list[tuple[str, tuple[int, ...], Role]] = [
            ("A_log", (m.num_heads,), role),
            ("D", (m.num_heads,), role),
            ("dt_bias", (m.num_heads,), role),
            ("conv1d.weight", (m.conv_channels, 1, m.conv_kernel), role),
            ("in_proj.weight", (m.in_proj_rows, hidden), Role.MAMBA_PROJ),
            ("norm.weight", (m.inner,), role),
            ("out_proj.weight", (hidden, m.inner), Role.MAMBA_PROJ),
        ]
        if m.conv_bias:
            shapes.append(("conv1d.bias", (m.conv_channels,), role))
        if m.proj_bias:
            shapes += [
                ("in_proj.bias", (m.in_proj_rows,), role),
                ("out_proj.bias", (hidden,), role),
            ]
        return [TensorGroup(prefix + name, shape, role) for name, shape, role in shapes]

    def _attention(self, prefix: str) -> list[TensorGroup]:
        a, hidden = self.attention, self.hidden_size
        q, kv = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
        shapes = [("q", (q, hidden)), ("k", (kv, hidden)), ("v", (kv, hidden)), ("o", (hidden, q))]
        groups = []
        for name, shape in shapes:
            groups.append(TensorGroup(f"{prefix}{name}_proj.weight", shape, Role.ATTENTION))
            if a.bias:
                groups.append(TensorGroup(f"{prefix}{name}_proj.bias", shape[:1], Role.ATTENTION))
        return groups

    def _mlp(self, prefix: str) -> list[TensorGroup]:
        return self._up_down(prefix, self.hidden_size, self.mlp_width, Role.MLP)

    def _up_down(
        self, prefix: str, hidden: int, width: int, role: Role, count: int = 1, chosen: int = 1
    ) -> list[TensorGroup]:
        make = partial(TensorGroup, role=role, count=count, chosen=chosen)
        groups = []
        for name, shape in (("up_proj", (width, hidden)), ("down_proj", (hidden, width))):
            groups.append(make(f"{prefix}{name}.weight", shape))
            if self.mlp_bias:
                groups.append(make(f"{prefix}{name}.bias", shape[:1]))
        return groups

    def _moe(self, prefix: str, moe: Moe) -> list[TensorGroup]:
        hidden = self.hidden_size
        bias = prefix + "gate.e_score_correction_bias"
        groups = [
            TensorGroup(prefix + "gate.weight", (moe.num_experts, hidden), Role.ROUTER),
            TensorGroup(bias, (moe.num_experts,), Role.ROUTER_BIAS, dtype="F32"),
        ]
        experts, shared = prefix + "experts.{}.", prefix + "shared_experts."
        groups += self._up_down(
            experts, moe.latent, moe.width, Role.EXPERT, moe.num_experts, moe.top_k
        )
        if moe.num_shared:
            groups += self._up_down(shared, hidden, moe.shared_width, Role.SHARED_EXPERT)
        if moe.has_latent:
            for name, shape in (("fc1", (moe.latent, hidden)), ("fc2", (hidden, moe.latent))):
                name = f"{prefix}{name}_latent_proj."
                groups.append(TensorGroup(name + "weight", shape, Role.LATENT))
                if self.mlp_bias:
                    groups.append(TensorGroup(name + "bias", shape[:1], Role.LATENT))
        return groups

    def _mtp(self) -> list[TensorGroup]:
        """The layers of all steps, numbered through. Each step's first layer joins embedding and
        hidden state (`enorm`, `hnorm`, `eh_proj`), its last one ends in a norm of its own.

        After `NemotronHMultiTokenPredictor` in NVIDIA's `modeling_nemotron_h.py` (NVIDIA-NeMo/
        Nemotron, usage-cookbook/Nemotron-3-Ultra/RL/checkpoint_compatibility), and vLLM's
        `nemotron_h_mtp.py`, which takes one step only.
        """
        hidden, length = self.hidden_size, len(self.mtp_pattern)
        step = list(self._layers(self.mtp_pattern, self.mtp_moes))
        groups = []
        for index, (letter, moe) in enumerate(step * self.mtp_steps):
            prefix = f"mtp.layers.{index}."
            groups += self._layer(prefix, letter, moe)
            shapes: list[tuple[str, tuple[int, ...]]] = []
            if index % length == 0:
                shapes += [("enorm.weight", (hidden,)), ("hnorm.weight", (hidden,))]
                shapes += [("eh_proj.weight", (hidden, 2 * hidden))]
                shapes += [("eh_proj.bias", (hidden,))] * self.mlp_bias
            if index % length == length - 1:
                shapes += [("final_layernorm.weight", (hidden,))]
                shapes += [("final_layernorm.bias", (hidden,))] * self.mlp_bias
            groups += [TensorGroup(prefix + name, shape, Role.MTP) for name, shape in shapes]
        return [replace(group, role=Role.MTP) for group in groups]

    @property
    def parameters_total(self) -> int:
        """All parameters, those of MTP layers included, router correction biases included."""
        return sum(group.parameters for group in self.tensors())

    @property
    def parameters_active(self) -> int:
        """Parameters multiplied for one token: all but the embedding table (a look-up), the experts
        that are not chosen, and MTP layers (which serve speculation, not the token itself)."""
        idle = (Role.EMBEDDING, Role.MTP)
        return sum(g.parameters_active for g in self.tensors() if g.role not in idle)

    @property
    def bytes(self) -> int:
        """Tensor bytes of an unquantized checkpoint (safetensors headers not counted)."""
        return sum(group.bytes for group in self.tensors())

    @property
    def kv_values_per_token(self) -> int:
        """K and V over the attention layers: layers x 2 x kv_heads x head_dim."""
        heads = self.attention.num_kv_heads * self.attention.head_dim
        return self.layer_count("*") * 2 * heads

    def kv_bytes_per_token(self, dtype: str) -> int:
        return int(self.kv_values_per_token * DTYPE_BYTES[dtype])

    @property
    def conv_bytes_per_sequence(self) -> int:
        """Convolution state of one sequence over all Mamba layers, always in BF16 (the activations'
        dtype, as TensorRT-LLM keeps it)."""
        return self.layer_count("M") * 2 * self.mamba.conv_values

    def state_bytes_per_sequence(self, dtype: str) -> int:
        """Mamba state of one sequence over all layers: recurrent state in `dtype`, and that of the
        convolutions."""
        values = self.layer_count("M") * self.mamba.state_values
        return int(values * DTYPE_BYTES[dtype]) + self.conv_bytes_per_sequence
