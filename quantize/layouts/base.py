"""What a layout is. Nothing here needs torch until a tensor is encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ...model.architecture import Model, TensorGroup
from ...model.recipe import Recipe
from ...model.weight_format import StoredTensor, WeightFormat

if TYPE_CHECKING:
    from torch import Tensor

    from ...runtime.formats import Deviation


@dataclass(frozen=True, slots=True)
class Reader:
    """An engine that reads what was written. `serve` is its command with `{path}` for the
    directory, empty where this project's own bundle is the way. `rests_on` says where the command
    is from, since nemo-deploy has run none of them on a GPU."""

    engine: str
    serve: str = ""
    rests_on: str = ""


PARSERS: Final = (
    "--reasoning-parser nemotron_v3 --enable-auto-tool-choice --tool-call-parser qwen3_coder"
)
"""Flags of `vllm serve` for the reasoning and the tool calls of Nemotron 3."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to lay a quantized checkpoint out.

    `formats` are the keys of the formats it can hold, `kv_scales` says whether it has a place for
    the scales of an FP8 KV cache. `stored` gives what a quantized tensor group becomes (it raises
    `RefusedError` where widths do not divide), `encode` the tensors themselves by the same
    suffixes, telling a `Deviation` what it cost, `configuration` the JSON files by name, from the
    source's `config.json`, the model, the recipe and whether there are KV scales.
    """

    key: str
    formats: frozenset[str]
    kv_scales: bool
    stored: Callable[[WeightFormat, TensorGroup], tuple[StoredTensor, ...]]
    encode: Callable[[Tensor, WeightFormat, Deviation | None], Mapping[str, Tensor]]
    configuration: Callable[[Mapping[str, Any], Model, Recipe, bool], Mapping[str, dict[str, Any]]]
    readers: Callable[[Recipe], tuple[Reader, ...]]


def weights_bytes(layout: Layout, recipe: Recipe, model: Model) -> int:
    """Bytes of all tensors of `model` in this format and layout, scales included."""
    total = 0
    for group in model.tensors():
        if kind := recipe.format_of(group):
            total += group.count * sum(stored.bytes for stored in layout.stored(kind, group))
        else:
            total += group.bytes
    return total
