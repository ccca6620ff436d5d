"""Reads a recipe of the user's own: `--recipe FILE.yaml` (docs/quantization.md has an example)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from ..core.errors import BadInputError
from ..runtime.untrusted import brief
from ..runtime.yaml_reader import MAX_YAML_BYTES, load_yaml
from .architecture import Role
from .fields import MAX_LAYERS
from .recipe import EXPERT_ROLES, Choice, Recipe
from .weight_format import GROUP_SIZES, INTEGER_BITS, QUANT_ALGOS, ROW, WeightFormat

TENSORS: Final[Mapping[str, frozenset[Role]]] = {
    "experts": EXPERT_ROLES,
    "routed_experts": frozenset({Role.EXPERT}),
    "shared_experts": frozenset({Role.SHARED_EXPERT}),
    "mlp": frozenset({Role.MLP}),
    "latent": frozenset({Role.LATENT}),
    "mamba": frozenset({Role.MAMBA_PROJ}),
    "attention": frozenset({Role.ATTENTION}),
    "head": frozenset({Role.HEAD}),
}
"""What `tensors` may list. `experts` are routed and shared experts and dense MLPs."""

FEEDING_ATTENTION: Final = "feeding-attention"

KV_DTYPES: Final = {"fp8": "F8_E4M3", "bf16": "BF16"}

COPIED: Final = "bf16"

_KEYS: Final = {"weights", "kv_cache"}
_ENTRY_KEYS: Final = {"tensors", "format", "group_size", "layers"}


def read_recipe(path: Path) -> Recipe:
    """The recipe in the YAML file `path`. Raises `BadInputError` naming the entry at fault."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_YAML_BYTES + 1).decode("utf-8-sig")
        documents = load_yaml(text)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise BadInputError(f"{path}: {error}") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise BadInputError(f"{path}: a recipe is one mapping with `weights` and `kv_cache`")
    return _Reader(path).recipe(documents[0])


class _Reader:
    """Reads one file; each failure names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def recipe(self, document: Mapping[str, Any]) -> Recipe:
        self._known(document, _KEYS, "the file")
        rows = document.get("weights")
        if not isinstance(rows, list) or not rows:
            self._fail("`weights` must list at least one entry")
        choices = tuple(
            self._choice(row, f"entry {n} of `weights`") for n, row in enumerate(rows, 1)
        )
        kv_cache = document.get("kv_cache", "bf16")
        if kv_cache not in KV_DTYPES:
            self._fail(f"`kv_cache` must be {' or '.join(KV_DTYPES)}, got {brief(kv_cache)}")
        return Recipe(self._key(choices), choices, KV_DTYPES[kv_cache], self._path.name)

    def _key(self, choices: tuple[Choice, ...]) -> str:
        """The format of experts and MLPs, or else the first one."""
        formats = [choice.format for choice in choices if choice.format]
        if not formats:
            self._fail("every `format` is bf16, so nothing would be quantized")
        of_experts = (c.format for c in choices if c.format and c.roles & EXPERT_ROLES)
        return next(of_experts, formats[0]).key

    def _choice(self, row: Any, where: str) -> Choice:
        if not isinstance(row, dict):
            self._fail(f"{where} must be a mapping, got {brief(row)}")
        self._known(row, _ENTRY_KEYS, where)
        kind = self._format(row, where)
        roles = self._roles(row.get("tensors"), where)
        if Role.HEAD in roles and kind is not None and kind.scales_activations:
            self._fail(f"{where}: the head cannot be {kind.key}, whose activations have scales")
        layers = row.get("layers")
        if layers == FEEDING_ATTENTION:
            return Choice(roles, kind, feeds_attention=True)
        return Choice(roles, kind, None if layers is None else self._layers(layers, where))

    def _format(self, row: Mapping[str, Any], where: str) -> WeightFormat | None:
        key, size = row.get("format"), row.get("group_size")
        if key != COPIED and (not isinstance(key, str) or key not in QUANT_ALGOS):
            known = ", ".join([*QUANT_ALGOS, COPIED])
            self._fail(f"{where}: `format` must be one of {known}, got {brief(key)}")
        if key not in INTEGER_BITS:
            if size is not None:
                self._fail(f"{where}: `group_size` belongs to int8 and int4, not to {key}")
            return None if key == COPIED else WeightFormat(key, 16 if key == "nvfp4" else 0)
        sizes = (*GROUP_SIZES, ROW) if key == "int8" else GROUP_SIZES
        size = 64 if size is None else size
        if isinstance(size, bool) or size not in sizes:
            known = ", ".join(map(str, sizes))
            self._fail(f"{where}: `group_size` of {key} must be one of {known}, got {brief(size)}")
        return WeightFormat(key, size)

    def _roles(self, names: Any, where: str) -> frozenset[Role]:
        listed = names if isinstance(names, list) else [names]
        for name in listed:
            if not isinstance(name, str) or name not in TENSORS:
                known = ", ".join(TENSORS)
                self._fail(f"{where}: `tensors` may list {known}, got {brief(name)}")
        if not listed:
            self._fail(f"{where}: `tensors` must list at least one name")
        return frozenset().union(*(TENSORS[name] for name in listed))

    def _layers(self, layers: Any, where: str) -> frozenset[int]:
        listed = layers if isinstance(layers, list) else [layers]
        for index in listed:
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < MAX_LAYERS:
                self._fail(
                    f"{where}: `layers` may be a list of layer numbers from 0 on, or "
                    f"{FEEDING_ATTENTION}, got {brief(index)}"
                )
        if not listed:
            self._fail(f"{where}: `layers` must list at least one number")
        return frozenset(listed)

    def _known(self, row: Mapping[str, Any], keys: set[str], where: str) -> None:
        unknown = [key for key in row if key not in keys]
        if unknown:
            known = ", ".join(sorted(keys))
            self._fail(f"{where} has an unknown key `{brief(unknown[0])}`; known are {known}")

    def _fail(self, why: str) -> NoReturn:
        raise BadInputError(f"{self._path}: {why}")
