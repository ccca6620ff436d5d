"""What an engine for INT4 or INT8 experts holds beside arguments: the plugin, and its kernels
compiled for one SM."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ....core.checks import Check
from ....core.errors import BadInputError, CheckFailedError
from ....core.extras import require
from ....core.source_digest import source_digest
from ....model.architecture import Model, Moe
from ....model.checkpoint import Checkpoint
from ....model.recipe import EXPERT_ROLES, Recipe
from ....model.spec import Plan
from ....model.weight_format import WeightFormat
from ...kernels import configs
from ...kernels.steps import Shape
from ...plugin import settings
from ...plugin.seam import VERSIONS
from ...plugin.sharding import ShardError, columns_of, experts_of
from ..base import OnCompiled
from . import kernel_cache

PLUGIN: Final = "plugin"
KERNELS: Final = "kernels"

_BUILD: Final = Path(__file__).parents[2]
_ENTRY: Final = '''"""Nemotron-H with quantized experts; importing this registers it."""

from .plugin.model import PackedNemotronHForCausalLM
from .plugin.view import checkpoint_view

__all__ = ["PackedNemotronHForCausalLM", "checkpoint_view"]
'''


def _sources() -> Iterator[tuple[str, bytes]]:
    """The plugin's and the kernels' sources, by their place in the package that engines hold."""
    for folder in (PLUGIN, KERNELS):
        for source in sorted((_BUILD / folder).glob("*.py")):
            yield f"{folder}/{source.name}", source.read_bytes()


def plugin_code() -> Iterator[tuple[str, bytes]]:
    """Every file of code in the plugin: its path in the engine, and what it holds."""
    package = f"{PLUGIN}/{settings.PACKAGE}"
    yield f"{package}/__init__.py", _ENTRY.encode()
    for name, content in _sources():
        yield f"{package}/{name}", content


def has_kernels(sm: int) -> bool:
    """Whether kernels can be compiled for that SM version: its tile sizes and limits are known."""
    return all(sm in table for table in (configs.TILES, configs.SHARED_LIMIT, configs.THREADS))


def split_problem(model: Model, recipe: Recipe, gpus: int) -> str | None:
    """Why the plugin cannot split this model's experts over so many GPUs, or None where it can."""
    moe = _experts(model)
    try:
        experts_of(moe.num_experts, 0, gpus)
        for rank in range(gpus if moe.num_shared else 0):
            columns_of(moe.shared_width, _format(recipe).group_size, rank, gpus)
    except ShardError as error:
        return str(error)
    return None


def require_compiler() -> None:
    """Raise `BadInputError` where kernels cannot be compiled here, before any work is done."""
    if sys.platform != "linux":
        raise BadInputError(
            "the experts' kernels are compiled with triton, which exists for Linux only; build "
            "there, on any machine, with or without a GPU"
        )
    require("triton", "torch", purpose="compiling the experts' kernels")


def scale_divisor(checkpoint: Path, recipe: Recipe) -> int:
    """What all scales of the experts in a quantized checkpoint are BF16 numbers over: kernels then
    read two bytes a scale, and compute with the same scales. 0 where that would change one."""
    import torch

    from ...kernels import packing

    opened = Checkpoint.open(checkpoint)
    scales = (
        torch.frombuffer(opened.read(f"{name}_scale"), dtype=torch.float32)
        for group in opened.model.tensors()
        if group.role in EXPERT_ROLES
        for name in group.names()
        if f"{name}_scale" in opened.tensors
    )
    return packing.scale_divisor_of(_format(recipe).integer_bits, scales)


def emit_plugin(engine: Path, model: Model, recipe: Recipe, scale_divisor: int) -> None:
    """Copy the plugin and the kernels' sources into `engine`, as one importable package."""
    for name, content in plugin_code():
        target = engine / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    moe = _experts(model)
    layers = tuple(index for index, letter in enumerate(model.pattern) if letter == "E")
    shared = layers if moe.num_shared else ()
    kind = _format(recipe)
    settings.Settings(
        kind.integer_bits, kind.group_size, scale_divisor, moe.top_k, layers, shared
    ).write(engine / PLUGIN / settings.PACKAGE)


def emit_kernels(
    engine: Path,
    plan: Plan,
    model: Model,
    recipe: Recipe,
    scale_divisor: int,
    cache: Path,
    on_compiled: OnCompiled | None = None,
) -> None:
    """Compile every kernel that serving `model` can launch, on every rank, for the plan's SM.

    The directory `cache` keeps them for later builds; kernels that are in it already are not
    compiled. Raises `CheckFailedError` where a kernel's machine code falls short.
    """
    moe = _experts(model)
    experts = len(experts_of(moe.num_experts, 0, plan.gpus))
    group, bits = _format(recipe).group_size, _format(recipe).integer_bits
    routed = Shape(
        moe.latent,
        moe.width,
        experts,
        moe.top_k,
        group,
        bits,
        routes=moe.num_experts,
        scale_divisor=scale_divisor,
    )
    widths = {
        len(columns_of(moe.shared_width, group, rank, plan.gpus))
        for rank in range(plan.gpus)
        if moe.num_shared
    }
    shared = [
        Shape(model.hidden_size, width, 1, 1, group, bits, scale_divisor=scale_divisor)
        for width in sorted(widths)
    ]
    target = engine / KERNELS / f"sm_{plan.sm}"
    sources = source_digest("build/kernels")
    most_tokens = plan.serving.step_tokens
    kept = kernel_cache.entry(cache, sources, plan.sm, routed, shared, most_tokens)
    if restored := kernel_cache.restore(kept, target):
        if on_compiled:
            on_compiled(restored, restored)
        return
    _compile(target, plan.sm, model.name, routed, shared, most_tokens, on_compiled)
    kernel_cache.keep(target, kept)


def lowest_driver(engine: Path, sm: int) -> dict[str, Any]:
    """The oldest driver that loads the kernels in an engine directory: its `version` on Linux, and
    the major `cuda` version that it must know."""
    from ...kernels import store

    index = store.read_index(engine / KERNELS / f"sm_{sm}")
    return {"version": index["lowest_driver"], "cuda": int(index["ptxas"].split(".")[0])}


def _compile(
    target: Path,
    sm: int,
    model: str,
    routed: Shape,
    shared: Sequence[Shape],
    most_tokens: int,
    on_compiled: OnCompiled | None,
) -> None:
    from concurrent.futures.process import BrokenProcessPool

    from ...kernels import aot
    from ...kernels.machine import MachineError

    try:
        aot.build(
            target,
            routed,
            sm,
            shared_shapes=shared,
            most_tokens=most_tokens,
            workers=min(4, len(os.sched_getaffinity(0))),
            on_compiled=on_compiled,
        )
    except BrokenProcessPool:
        raise CheckFailedError(
            "a process that compiled kernels was killed, most likely for want of memory; run the "
            "same nemo-deploy build again, with nothing else running"
        ) from None
    except MachineError as error:
        raise CheckFailedError(
            f"a kernel for {model} is not what it should be: {error}. Another triton than "
            "3.9 may be installed; please report it"
        ) from error


def _format(recipe: Recipe) -> WeightFormat:
    assert recipe.expert_format is not None, "other recipes are not planned with the plugin"
    return recipe.expert_format


def _experts(model: Model) -> Moe:
    assert model.moe is not None, "a model without experts is not planned with the plugin"
    return model.moe


def check(engine: Path, sm: int) -> list[Check]:
    """Check the plugin and the kernels of a bundle's engine directory."""
    package = engine / PLUGIN / settings.PACKAGE
    try:
        content = settings.read(package)
        detail = (
            f"{len(content.routed_layers)} layers of INT{content.bits} experts; written against "
            f"TensorRT-LLM {VERSIONS} and not run with it yet"
        )
        plugin = Check("plugin", True, detail)
    except ImportError as error:
        plugin = Check("plugin", False, str(error))
    return [plugin, _check_kernels(engine / KERNELS / f"sm_{sm}")]


def _check_kernels(directory: Path) -> Check:
    from ...kernels import store

    name = f"kernels {directory.name}"
    try:
        index = store.read_index(directory)
        for record in index["kernels"]:
            store.read_cubin(directory, record)
        ran = "run on a GPU" if index["run_on_a_gpu"] else "not run on a GPU"
        detail = f"{len(index['kernels'])} compiled with triton {index['triton']}, {ran}"
    except (store.StoreError, KeyError, TypeError) as error:
        return Check(name, False, f"{directory}: cannot be used: {error}")
    return Check(name, True, detail)
