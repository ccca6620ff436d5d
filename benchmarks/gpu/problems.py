"""Layers, inputs and errors that the steps of the GPU check share.

On a machine without CUDA everything is small and on the CPU, to try the steps themselves.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

STORE: Final = Path(os.environ.get("GPU_CHECK_STORE", ".gpu/cubins"))
"""Cubins that `prepare` compiled, by SM version."""

ROOT: Final = Path(__file__).parents[2]
BOUND: Final = 0.01
"""Largest relative error of a token against FP32; rounding to BF16 costs 0.4 % at most."""

SHARED_WIDTH: Final = 3712


def cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def nano() -> Any:
    """Nano's layer on a GPU, a small one elsewhere, with scales as `quantize` gives them."""
    from nemotron_deploy.build.kernels import steps

    sizes = (2688, 1856, 128, 6, 64) if cuda() else (128, 192, 8, 2, 64)
    return steps.Shape(*sizes, scale_divisor=7)


def device() -> str:
    return "cuda" if cuda() else "cpu"


def random_experts(shape: Any) -> Any:
    """Packed weights with scales as `shape` has them; every value of a byte occurs. Outputs stay
    far from FP16's largest number, for which INT8's scales are smaller."""
    import torch

    from nemotron_deploy.build import kernels

    def matrix(rows: int, columns: int) -> tuple[Any, Any]:
        size = (shape.experts, rows * shape.bits // 8, columns)
        packed = torch.randint(0, 256, size, dtype=torch.uint8, device=device())
        groups = (shape.experts, rows, columns // shape.group)
        scale = torch.rand(groups, device=device()) / 200 + 0.0005
        scale = scale if shape.bits == 4 else scale / 16
        if shape.scale_divisor:
            numerators = (scale * shape.scale_divisor).bfloat16()
            scale = numerators.float() / torch.full_like(scale, shape.scale_divisor)
        return packed if shape.bits == 4 else packed.view(torch.int8), scale

    return kernels.pack(*matrix(shape.width, shape.hidden), *matrix(shape.hidden, shape.width))


def random_input(shape: Any, tokens: int, dtype: Any) -> tuple[Any, Any, Any]:
    import torch

    ids = torch.rand(tokens, shape.experts, device=device()).topk(shape.top_k).indices.int()
    hidden = (torch.randn(tokens, shape.hidden, device=device()) / 4).to(dtype)
    return hidden, ids, torch.rand(tokens, shape.top_k, device=device())


def random_router(shape: Any) -> Any:
    import torch

    from nemotron_deploy.build import kernels

    bias = torch.rand(shape.experts, device=device()) / 8
    return kernels.Router(bias, torch.full((1,), 2.5, device=device()), shape.top_k)


def random_logits(shape: Any, tokens: int) -> Any:
    import torch

    return torch.randn(tokens, shape.experts, device=device())


def chosen_error(shape: Any, experts: Any, tokens: int, dtype: Any) -> float:
    """The largest relative error of a token where the kernels choose its experts, too."""
    from nemotron_deploy.build import kernels

    router, logits = random_router(shape), random_logits(shape, tokens)
    hidden, _, _ = random_input(shape, tokens, dtype)
    out = kernels.routed_moe(hidden, logits, router, experts)
    choice = kernels.reference_route(logits, router.bias, router.scaling, router.top_k)
    return worst_token(out, kernels.reference_moe(hidden.float(), *choice, experts, 0))


def worst_token(out: Any, expected: Any) -> float:
    """The largest relative error of a token."""
    import torch

    error = (out.float() - expected.float()).norm(dim=1)
    error = error / expected.float().norm(dim=1).clamp_min(1e-20)
    return float(error.nan_to_num(torch.inf).max()) if len(error) else 0.0


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Working memory and outputs start as NaN, or as numbers that name nothing."""
    import torch

    from nemotron_deploy.build.kernels import launch

    before = launch.empty

    def poison(shape: Any, dtype: Any, like: Any) -> Any:
        value = float("nan") if dtype.is_floating_point else 1 << 30
        return torch.full(shape, value, dtype=dtype, device=like.device)

    launch.empty = poison
    try:
        yield
    finally:
        launch.empty = before


def routed_error(shape: Any, experts: Any, given: tuple[Any, Any, Any], first: int = 0) -> float:
    from nemotron_deploy.build import kernels

    hidden, ids, weights = given
    out = kernels.moe(hidden, ids, weights, experts, first)
    return worst_token(out, kernels.reference_moe(hidden.float(), ids, weights, experts, first))


def dtypes() -> dict[str, Any]:
    import torch

    from nemotron_deploy.build.kernels.interpreter import interpreting

    if interpreting():
        return {"fp16": torch.float16}
    return {"bf16": torch.bfloat16, "fp16": torch.float16}


def attempt(work: Callable[[], Any]) -> Any:
    """A result, or what went wrong, short: the other cases go on."""
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"


def bad(value: Any, bound: float = BOUND) -> bool:
    return isinstance(value, str) or not value < bound


def open_carried_store() -> bool:
    from nemotron_deploy.build.kernels import launch
    from nemotron_deploy.build.kernels.load import open_store

    directory = STORE / f"sm_{launch.sm_of(0)}"
    return directory.is_dir() and open_store(directory) is not None
