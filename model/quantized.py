"""What a checkpoint is quantized as. Its tensors decide; its configuration files are compared.

Each matrix is looked at by itself, because formats may differ between layers. What is recognized
and cannot be used is refused with its name, and with the place of the unquantized original.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..core.errors import BadInputError
from .architecture import Model, Role
from .contents import original_named
from .declared import FP8_KV, HF_QUANT_CONFIG, Declared, declared
from .encodings import (
    PACKED,
    SCALES,
    SHAPE,
    WEIGHT,
    Encoding,
    UnusableError,
    encoding_of,
    is_quantized,
)
from .formats import QUANTS, Quant
from .headers import TensorInfo
from .recipe import Recipe
from .stored_recipe import recipe_of
from .weight_format import (
    COMPRESSED_TENSORS,
    GROUP_SIZES,
    INTEGER_BITS,
    MODELOPT,
    ROW,
    WeightFormat,
)

_KNOWN_GROUPS: Final = ", ".join(map(str, GROUP_SIZES))

KV_SCALES: Final = ("k_scale", "v_scale")
"""Of an FP8 KV cache, beside the projections of keys and values."""


@dataclass(frozen=True, slots=True)
class StoredFormat:
    """The format that a checkpoint has already.

    `recipe` says which matrices have which format, `producer` who made them so. `unread` says where
    this is known from, if the tensors were not read, and is empty if they were.
    """

    recipe: Recipe
    producer: str
    unread: str

    @property
    def name(self) -> str:
        """The formats, for people: `FP8 and NVFP4`."""
        return _named(self.recipe.formats)

    @property
    def summary(self) -> str:
        """What is quantized as what, and who made it, in a clause."""
        producer = self.producer or "an unnamed producer"
        text = f"{self.name} by {producer}: {self.recipe.summary}"
        return f"{text} ({self.unread})" if self.unread else text

    @property
    def quant(self) -> Quant:
        """The format as planner and engines take it."""
        return replace(QUANTS[self.recipe.key], name=self.summary, recipe=self.recipe)


@dataclass(frozen=True, slots=True)
class Quantization(StoredFormat):
    """What a checkpoint is quantized as, by its tensors.

    `encodings` say how each matrix is stored, by the template of its tensor group; groups that are
    not quantized are absent. `layout` is that of the files. `agrees` is whether the configuration
    files say what the tensors are.
    """

    encodings: Mapping[str, Encoding]
    layout: str
    agrees: bool


@dataclass(frozen=True, slots=True)
class Decoded:
    """`tensors` are those of a checkpoint as if it were not quantized, with the names and shapes
    of the decoded matrices; `notes` say in a line each what is remarkable."""

    quantization: Quantization | None
    tensors: Mapping[str, TensorInfo]
    notes: tuple[str, ...]


def require_known_format(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> None:
    """Raise `BadInputError` for weights of a quantizer whose files nothing here reads, saying which
    one and where the unquantized model is."""
    if name := _foreign_format(declared(path, config), config, tensors):
        raise refusal(path, config, f"is quantized by {name}")


def read_quantization(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], model: Model
) -> Decoded:
    """What the `tensors` (by canonical name) of the checkpoint in `path` are quantized as.

    Raises `BadInputError` for a format that cannot be used, saying which one and where the
    unquantized model is.
    """
    said = declared(path, config)
    owners = _owners(tensors)
    if not owners:
        return Decoded(None, tensors, _ignored(path, config) if said else ())
    try:
        encodings, decoded = _decode(tensors, owners, model, said)
        kv_scales = _without_kv_scales(decoded, model)
        by_group = _by_group(encodings, decoded, model)
        formats = {name: kind.format for name, kind in by_group.items()}
        declares_kv = said is not None and said.kv_cache == FP8_KV
        recipe = recipe_of(formats, kv_scales or declares_kv, kv_scales, model)
    except UnusableError as error:
        raise refusal(path, config, f"is quantized as {error}") from None
    wrong = _difference(said, by_group, model)
    layouts = {encoding.layout for encoding in encodings.values()}
    layout = COMPRESSED_TENSORS if COMPRESSED_TENSORS in layouts else MODELOPT
    producer = said.producer if said else ""
    quantization = Quantization(recipe, producer, "", by_group, layout, wrong is None)
    notes = [f"{wrong}; the tensors decide"] if wrong else []
    notes += [_WITHOUT_KV_SCALES] if declares_kv and not kv_scales else []
    return Decoded(quantization, decoded, tuple(notes))


_WITHOUT_KV_SCALES: Final = (
    "an FP8 KV cache is declared and no scales of it are stored: engines take every scale as 1"
)


def declared_format(path: Path, config: Mapping[str, Any], model: Model) -> StoredFormat | None:
    """The format that `config` and the files beside it in the directory `path` declare, where no
    tensors are there; None for an unquantized model.

    Raises `BadInputError` for a format that cannot be used.
    """
    said = declared(path, config)
    if said is None:
        return None
    if said.method not in (MODELOPT, COMPRESSED_TENSORS):
        raise refusal(path, config, f"is declared as quantized by {said.producer or 'a tool'}")
    try:
        formats = _declared_formats(said, model)
        has_fp8_kv = said.kv_cache == FP8_KV
        recipe = recipe_of(formats, has_fp8_kv, has_fp8_kv, model)
    except UnusableError as error:
        raise refusal(path, config, f"is declared as {error}") from None
    return StoredFormat(recipe, said.producer, "declared; the tensors were not read")


def _declared_formats(said: Declared, model: Model) -> dict[str, WeightFormat]:
    """The declared format of each tensor group by its template. Raises `UnusableError`."""
    if said.integer_inputs:
        raise UnusableError("integers with quantized inputs")
    if said.unusable or not said.formats:
        raise UnusableError(said.unusable or said.algorithm or "quantized without a known format")
    roles = _LINEAR | ({Role.HEAD} if said.modules else set())
    formats: dict[str, WeightFormat] = {}
    for group in model.tensors():
        if group.role not in roles or len(group.shape) != 2:
            continue
        if kind := said.format_of(next(group.names()).rpartition(".")[0]):
            sizes = (*GROUP_SIZES, ROW) if kind.key == "int8" else GROUP_SIZES
            if kind.key in INTEGER_BITS and kind.group_size not in sizes:
                raise UnusableError(f"{kind.label}; known are groups of {_KNOWN_GROUPS}")
            formats[group.template] = kind
    if not formats:
        raise UnusableError(f"{_named(said.formats)} of no matrix of this model")
    return formats


def refusal(path: Path, config: Mapping[str, Any], what: str) -> BadInputError:
    """What says that a format cannot be used, and where the unquantized model is."""
    return BadInputError(f"{path}: {what}, which is not read; {original_named(path, config)}")


def _ignored(path: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """A note on what is left over in an unquantized model."""
    places = ["`quantization_config`"] if config.get("quantization_config") else []
    places += [f"`{HF_QUANT_CONFIG}`"] if (path / HF_QUANT_CONFIG).is_file() else []
    are = "are" if len(places) > 1 else "is"
    return (f"{' and '.join(places)} {are} ignored: no tensor is quantized",)


def _foreign_format(
    said: Declared | None, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> str | None:
    suffixes = {name.rpartition(".")[2] for name in tensors}
    dtypes = {info.dtype for info in tensors.values()}
    if suffixes & {"absmax", "SCB", "quant_map"} or "bitsandbytes__nf4" in suffixes:
        return "bitsandbytes"
    if suffixes & {"qweight", "qzeros"}:
        is_awq = said is not None and said.method == "awq"
        return "AWQ" if is_awq else "GPTQ" if "g_idx" in suffixes else "GPTQ or AWQ"
    if "U32" in dtypes and ("quantization" in config or "scales" in suffixes):
        return "MLX"
    if "weight_scale_inv" in suffixes:
        return "blocks of FP8 (weight_scale_inv)"
    return None


def _owners(tensors: Mapping[str, TensorInfo]) -> dict[str, dict[str, TensorInfo]]:
    """The tensors of each quantized matrix, by what they belong to and then by their suffix."""
    by_owner: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for name, info in tensors.items():
        owner, _, suffix = name.rpartition(".")
        by_owner[owner][suffix] = info
    return {owner: parts for owner, parts in by_owner.items() if is_quantized(parts)}


def _decode(
    tensors: Mapping[str, TensorInfo],
    owners: Mapping[str, Mapping[str, TensorInfo]],
    model: Model,
    said: Declared | None,
) -> tuple[dict[str, Encoding], dict[str, TensorInfo]]:
    """The encoding of each matrix by its parameter's name, and `tensors` with the decoded matrices
    in place of what they are stored as."""
    shapes = {name: group.shape for group in model.tensors() for name in group.names()}
    encodings: dict[str, Encoding] = {}
    decoded = dict(tensors)
    for owner, parts in owners.items():
        for suffix in (PACKED, SHAPE, *SCALES):
            decoded.pop(f"{owner}.{suffix}", None)
        stored = parts.get(PACKED) or parts.get(WEIGHT)
        if stored is not None:
            name = f"{owner}.{WEIGHT}"
            encodings[name], shape = encoding_of(owner, stored, parts, shapes.get(name), said)
            decoded[name] = replace(stored, name=name, shape=shape)
    return encodings, decoded


def _without_kv_scales(tensors: dict[str, TensorInfo], model: Model) -> bool:
    """Take the scales of the KV cache out of `tensors`; whether there are any. Every attention
    layer has them, or none has."""
    wanted = list(kv_scale_names(model))
    there = [name for name in wanted if name in tensors]
    if there and len(there) < len(wanted):
        missing = next(name for name in wanted if name not in tensors)
        raise UnusableError(f"FP8 with scales of some layers' KV cache ({missing} is missing)")
    for name in there:
        if math.prod(tensors.pop(name).shape) != 1:
            raise UnusableError(f"FP8 with several scales of a layer's keys or values ({name})")
    return bool(there)


def kv_scale_names(model: Model) -> Iterable[str]:
    """The names of the scales of an FP8 KV cache, as ModelOpt spells them."""
    for group in model.tensors():
        if group.makes_kv:
            projection = group.template.rpartition(".")[0]
            yield f"{projection}.{projection.removesuffix('_proj')[-1]}_scale"


def _by_group(
    encodings: Mapping[str, Encoding], tensors: Mapping[str, TensorInfo], model: Model
) -> dict[str, Encoding]:
    """The encoding of each tensor group, of which all experts must have one."""
    by_group: dict[str, Encoding] = {}
    for group in model.tensors():
        kinds = {name: encodings.get(name) for name in group.names() if name in tensors}
        first = next(iter(kinds.values()), None)
        other = next((name for name, kind in kinds.items() if kind != first), None)
        if other is not None:
            raise UnusableError(f"experts of one layer in several formats ({other} is another)")
        if first is not None:
            by_group[group.template] = first
    return by_group


_LINEAR: Final = frozenset({
    Role.MAMBA_PROJ, Role.ATTENTION, Role.MLP, Role.EXPERT, Role.SHARED_EXPERT, Role.LATENT,
})  # fmt: skip
"""Roles of the matrices to which an engine applies what is declared."""


def _difference(
    said: Declared | None, by_group: Mapping[str, Encoding], model: Model
) -> str | None:
    """How what is declared differs from what the tensors are, if it does."""
    if said is None:
        return "no configuration file says that the weights are quantized"
    stored = {encoding.format for encoding in by_group.values()}
    if set(map(_kind, said.formats)) != set(map(_kind, stored)):
        names = _named(said.formats) or said.algorithm or said.method or "nothing that is known"
        return f"the configuration says {names}, but the tensors are {_named(stored)}"
    if said.method != MODELOPT:
        return None
    for group in model.tensors():
        if group.role not in _LINEAR or len(group.shape) != 2:
            continue
        module = next(group.names()).rpartition(".")[0]
        encoding = by_group.get(group.template)
        kind = encoding.format if encoding else None
        if _kind(said.format_of(module)) != _kind(kind):
            name = kind.name if kind else "not quantized"
            return f"the configuration is wrong about single modules ({module} is {name})"
    return None


def _kind(kind: WeightFormat | None) -> tuple[str, bool] | None:
    """What of a format is compared: groups are in the shapes of the scales."""
    return (kind.key, kind.inputs) if kind else None


def _named(formats: Iterable[WeightFormat]) -> str:
    return " and ".join(sorted({kind.name for kind in formats}))
