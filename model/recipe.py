"""Which tensor gets which format, and how many bytes that takes. Data and arithmetic, no tensors.

The quantizer follows these records and the planner sums over them, so that both always agree.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any, Final

from .architecture import Model, Role, TensorGroup
from .weight_format import INTEGER_BITS, MODELOPT, StoredTensor, WeightFormat

EXPERT_ROLES: Final = frozenset({Role.EXPERT, Role.SHARED_EXPERT, Role.MLP})

QUANTIZABLE: Final[Mapping[Role, str]] = {
    Role.EXPERT: "routed experts",
    Role.SHARED_EXPERT: "shared experts",
    Role.MLP: "dense MLPs",
    Role.LATENT: "latent projections",
    Role.MAMBA_PROJ: "Mamba",
    Role.ATTENTION: "attention",
    Role.HEAD: "head",
}
"""The roles that a recipe can quantize, in words."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Weight matrices of `roles` get `format`; None leaves them as they are.

    It holds in `layers` (by index; None stands for all), or with `feeds_attention` in those that
    come right before an attention layer.
    """

    roles: frozenset[Role]
    format: WeightFormat | None
    layers: frozenset[int] | None = None
    feeds_attention: bool = False

    def covers(self, group: TensorGroup) -> bool:
        """Whether it decides about the tensors of `group`."""
        return (
            len(group.shape) == 2
            and group.role in self.roles
            and (self.layers is None or group.layer in self.layers)
            and (group.feeds_attention or not self.feeds_attention)
        )

    @property
    def everywhere(self) -> bool:
        """Whether it holds in all layers."""
        return self.layers is None and not self.feeds_attention


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize a model.

    The first of `choices` that covers a weight matrix decides about it; everything else is copied.
    `key` is the value of `--quant`: the format of experts and MLPs. `kv_dtype` is what the KV cache
    holds, by safetensors' name. FP8 has scales, which a calibration supplies; without `kv_scales`
    every scale is 1, and none is stored. `origin` says whose recipe it is.
    """

    key: str
    choices: tuple[Choice, ...] = ()
    kv_dtype: str = "BF16"
    origin: str = ""
    kv_scales: bool = True

    def choice_of(self, group: TensorGroup) -> Choice | None:
        """What decides about the tensors of `group`, None where nothing does."""
        return next((choice for choice in self.choices if choice.covers(group)), None)

    def format_of(self, group: TensorGroup) -> WeightFormat | None:
        """The format of the tensors of `group`, None where they are copied."""
        choice = self.choice_of(group)
        return choice.format if choice else None

    def quantizes(self, group: TensorGroup) -> bool:
        """Whether the tensors of `group` are encoded."""
        return self.format_of(group) is not None

    @property
    def formats(self) -> tuple[WeightFormat, ...]:
        """Every format that it uses, in the order of the choices."""
        used = (choice.format for choice in self.choices if choice.format is not None)
        return tuple(dict.fromkeys(used))

    @property
    def expert_format(self) -> WeightFormat | None:
        """The format that routed and shared experts of all layers have; None where they differ or
        have none."""
        formats = set()
        for role in (Role.EXPERT, Role.SHARED_EXPERT):
            first = next((choice for choice in self.choices if role in choice.roles), None)
            formats.add(first.format if first and first.everywhere else None)
        return formats.pop() if len(formats) == 1 else None

    @property
    def scales_activations(self) -> bool:
        """Whether a calibration must supply scales of activations."""
        return any(kind.scales_activations for kind in self.formats)

    @property
    def has_fp8_kv(self) -> bool:
        """Whether the KV cache holds FP8."""
        return self.kv_dtype == "F8_E4M3"

    @property
    def scales_kv(self) -> bool:
        """Whether a calibration must supply scales of keys and values."""
        return self.has_fp8_kv and self.kv_scales

    @property
    def calibrates(self) -> bool:
        """Whether it needs a calibration at all."""
        return self.scales_activations or self.scales_kv

    @property
    def smoothable(self) -> bool:
        """Whether its experts can be smoothed."""
        return self.expert_format is not None and self.expert_format.key == "int4"

    @property
    def summary(self) -> str:
        """What gets which format, in words."""
        return _summary(self)

    def identity(self) -> dict[str, Any]:
        """All that a quantized checkpoint depends on, as JSON."""
        return {
            "choices": [
                {
                    "roles": sorted(choice.roles),
                    "format": astuple(choice.format) if choice.format else None,
                    "layers": None if choice.layers is None else sorted(choice.layers),
                    "feeds_attention": choice.feeds_attention,
                }
                for choice in self.choices
            ],
            "kv_dtype": self.kv_dtype,
            "kv_scales": self.scales_kv,
        }

    def with_group_size(self, group_size: int) -> Recipe:
        """The same with another group size of its integer formats."""
        return self._with_formats(INTEGER_BITS, group_size=group_size)

    def with_nvfp4_inputs(self) -> Recipe:
        """The same with NVFP4 inputs of NVFP4 weights."""
        return self._with_formats({"nvfp4"}, inputs=True)

    def _with_formats(self, keys: Container[str], **changes: Any) -> Recipe:
        """The same with other fields of the formats of these keys."""
        changed = tuple(
            replace(choice, format=replace(choice.format, **changes))
            if choice.format and choice.format.key in keys
            else choice
            for choice in self.choices
        )
        return replace(self, choices=changed)

    def stored(self, group: TensorGroup, layout: str = MODELOPT) -> tuple[StoredTensor, ...]:
        """What one tensor of `group` [N, K] becomes in a layout. Raises `RefusedError` naming the
        tensor when its widths do not divide."""
        kind = self.format_of(group)
        return kind.stored(group, layout) if kind else (StoredTensor("", group.dtype, group.shape),)

    def tensors(self, model: Model) -> Iterator[StoredTensor]:
        """What all tensors of `model` become, scales of an FP8 KV cache included."""
        for group in model.tensors():
            kv_scale = (StoredTensor("scale", "F32", ()),) if self._has_kv_scale(group) else ()
            for _ in range(group.count):
                yield from (*self.stored(group), *kv_scale)

    def weights_bytes(self, model: Model, layout: str = MODELOPT) -> int:
        """Bytes of all tensors of `model` in this format and a layout, scales included."""
        return sum(self.bytes_of(group, layout) for group in model.tensors())

    def bytes_of(self, group: TensorGroup, layout: str = MODELOPT) -> int:
        """Bytes of a tensor group as written, scales included: also those of an FP8 KV cache, one
        F32 beside each projection of keys and of values."""
        size = group.count * sum(stored.bytes for stored in self.stored(group, layout))
        return size + 4 * group.count * self._has_kv_scale(group)

    def _has_kv_scale(self, group: TensorGroup) -> bool:
        return self.scales_kv and group.makes_kv


def _summary(recipe: Recipe) -> str:
    if not recipe.choices:
        return "as in the source checkpoint"
    names: dict[tuple[Choice, ...], list[Role]] = {}
    for role in QUANTIZABLE:
        if chosen := _deciding(recipe, role):
            names.setdefault(chosen, []).append(role)
    quantized = [f"{_named(roles)} {_formats(chosen)}" for chosen, roles in names.items()]
    covered = {role for roles in names.values() for role in roles}
    kept = [QUANTIZABLE[role] for role in (Role.MAMBA_PROJ, Role.ATTENTION) if role not in covered]
    kept += ["router", "embeddings"] + ["head"] * (Role.HEAD not in covered)
    text = f"{', '.join(quantized)}; {_listed(kept)} BF16"
    if recipe.has_fp8_kv:
        text += "; KV cache FP8" if recipe.kv_scales else "; KV cache FP8 with scales of 1"
    return f"{text}; after {recipe.origin}" if recipe.origin else text


def _deciding(recipe: Recipe, role: Role) -> tuple[Choice, ...]:
    """The choices that decide about `role`, in order, without their roles; none where all its
    tensors are copied."""
    decide: list[Choice] = []
    for choice in recipe.choices:
        if role in choice.roles:
            decide.append(replace(choice, roles=frozenset()))
            if choice.everywhere:
                break
    return tuple(decide) if any(choice.format for choice in decide) else ()


def _named(roles: list[Role]) -> str:
    """Roles in words."""
    if set(roles) >= EXPERT_ROLES:
        rest = [QUANTIZABLE[role] for role in roles if role not in EXPERT_ROLES]
        return _listed(["experts (and dense MLPs)", *rest])
    return _listed([QUANTIZABLE[role] for role in roles])


def _formats(chosen: tuple[Choice, ...]) -> str:
    """`FP8`, or `FP8 (BF16 in layers that feed attention)`."""
    exceptions = [f"{_label(choice)} in {_where(choice)}" for choice in chosen if _where(choice)]
    others = "BF16" if _where(chosen[-1]) else _label(chosen[-1])
    return f"{others} ({', '.join(exceptions)})" if exceptions else others


def _label(choice: Choice) -> str:
    return choice.format.label if choice.format else "BF16"


def _where(choice: Choice) -> str:
    if choice.layers is not None:
        return f"layers {_listed([str(index) for index in sorted(choice.layers)])}"
    return "layers that feed attention" if choice.feeds_attention else ""


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
