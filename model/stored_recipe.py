"""The recipe that a quantized checkpoint follows, from the formats of its matrices."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from .architecture import Model, Role
from .encodings import UnusableError
from .recipe import EXPERT_ROLES, QUANTIZABLE, Choice, Recipe
from .weight_format import WeightFormat

Layers = dict[int | None, WeightFormat | None]
"""The format of one role's matrices in each layer."""


def recipe_of(
    formats: Mapping[str, WeightFormat], fp8_kv: bool, kv_scales: bool, model: Model
) -> Recipe:
    """The recipe of `model` that gives the matrices their `formats`, by the template of the tensor
    group; those that are absent are not quantized. `fp8_kv` is whether the KV cache holds FP8,
    `kv_scales` whether its scales are stored.

    Raises `UnusableError` where a recipe cannot say it: for matrices that are never quantized, and
    for several formats of a role in one layer.
    """
    by_role: dict[Role, Layers] = defaultdict(dict)
    for group in model.tensors():
        kind, name = formats.get(group.template), group.template.format(0)
        if group.role not in QUANTIZABLE and kind is not None:
            raise UnusableError(f"{kind.label} where engines read no such matrix ({name})")
        if group.role not in QUANTIZABLE or len(group.shape) != 2:
            continue
        if by_role[group.role].setdefault(group.layer, kind) != kind:
            what = QUANTIZABLE[group.role]
            raise UnusableError(f"several formats in the {what} of one layer ({name} is another)")
    feeding = {group.layer for group in model.tensors() if group.feeds_attention}
    roles: dict[tuple[Choice, ...], set[Role]] = defaultdict(set)
    for role, layers in by_role.items():
        roles[tuple(_choices(layers, feeding))].add(role)
    choices = [
        Choice(frozenset(names), choice.format, choice.layers, choice.feeds_attention)
        for chosen, names in roles.items()
        for choice in chosen
    ]
    kv_dtype = "F8_E4M3" if fp8_kv else "BF16"
    return Recipe(_key(by_role), tuple(choices), kv_dtype, kv_scales=kv_scales)


def _choices(layers: Layers, feeding: set[int | None]) -> Iterator[Choice]:
    """The choices for one role, without it: exceptions first, then what most layers have; none
    where nothing is quantized."""
    counts = Counter(layers.values())
    if not any(counts):
        return
    usual = counts.most_common(1)[0][0]
    for kind in counts:
        own = {layer for layer, other in layers.items() if other == kind}
        if kind == usual:
            continue
        if own == feeding & layers.keys():
            yield Choice(frozenset(), kind, feeds_attention=True)
        else:
            yield Choice(frozenset(), kind, frozenset(n for n in own if n is not None))
    if usual is not None:
        yield Choice(frozenset(), usual)


def _key(by_role: Mapping[Role, Layers]) -> str:
    """The value of `--quant`: the format of experts and MLPs, else of anything."""
    first = [role for role in (Role.EXPERT, *sorted(EXPERT_ROLES)) if role in by_role]
    for role in (*first, *by_role):
        kinds = Counter(kind.key for kind in by_role[role].values() if kind is not None)
        if kinds:
            return kinds.most_common(1)[0][0]
    raise AssertionError("a quantized checkpoint has a quantized matrix")
