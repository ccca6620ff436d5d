"""The seam: the few names of TensorRT-LLM that the plugin relies on, checked, and rebound.

Upstream's `NemotronHMOE.__init__` looks up `create_moe` and `MLP` among its module's globals. While
its constructor runs, both names mean ours; no class of theirs is rewritten, and no BF16 experts are
allocated that would be thrown away.

Read in tensorrt_llm/_torch/models/modeling_nemotron_h.py @00620eb (mid-2026) and as of early 2026;
1.2.1 lies near the latter. Neither was run here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

VERSIONS: Final = ">=1.2.1,<1.3"
"""TensorRT-LLM versions this was written against."""

CREATE_MOE: Final = (
    "routing_method", "num_experts", "hidden_size", "intermediate_size", "aux_stream_dict", "dtype",
    "reduce_results", "model_config", "layer_idx", "weight_loading_mode", "bias", "activation_type",
)  # fmt: skip
"""Keyword arguments that `NemotronHMOE` gives `create_moe`."""

MLP: Final = ("hidden_size", "intermediate_size", "bias", "activation", "dtype", "config",
              "layer_idx", "reduce_output")  # fmt: skip
"""Keyword arguments that `NemotronHMOE` gives `MLP`."""


LOAD_WEIGHTS: Final = ("weights", "weight_mapper")
"""What the loader passes `NemotronHForCausalLM.load_weights`, and the plugin passes on."""


class SeamError(ImportError):
    """The TensorRT-LLM that is installed is not the one this plugin was written against."""


def require(upstream: ModuleType, version: str) -> None:
    """Raise `SeamError`, in one line with both versions, where `upstream` lacks something."""
    differences = list(_differences(upstream))
    if differences:
        raise SeamError(
            f"nemo-deploy's plugin was written against TensorRT-LLM {VERSIONS}, and {version} "
            f"differs: {'; '.join(differences)}. Use an image with a TensorRT-LLM that it knows, "
            "or build for another format"
        )


def _differences(upstream: ModuleType) -> Iterator[str]:
    wanted = ("NemotronHForCausalLM", "NemotronHMOE", "create_moe", "MLP")
    missing = [name for name in wanted if not hasattr(upstream, name)]
    if missing:
        yield f"{upstream.__name__} has no {', '.join(missing)}"
        return
    yield from _lacks(upstream.create_moe, "create_moe", CREATE_MOE)
    yield from _lacks(upstream.MLP.__init__, "MLP", MLP)
    moe = upstream.NemotronHMOE.__init__
    yield from _lacks(moe, "NemotronHMOE", ("model_config", "layer_idx", "aux_stream_dict"))
    model = upstream.NemotronHForCausalLM
    yield from _lacks(model.__init__, "NemotronHForCausalLM", ("model_config",))
    yield from _lacks(model.load_weights, "load_weights", LOAD_WEIGHTS)
    yield from _requires_more(model.load_weights, "load_weights", ("self", *LOAD_WEIGHTS))
    code = getattr(inspect.unwrap(moe), "__code__", None)
    unused = [name for name in ("create_moe", "MLP") if code and name not in code.co_names]
    if unused:
        yield f"NemotronHMOE no longer makes its experts with {', '.join(unused)}"


def _lacks(function: Callable[..., Any], name: str, wanted: tuple[str, ...]) -> Iterator[str]:
    parameters = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    lacking = [parameter for parameter in wanted if parameter not in parameters]
    if lacking:
        yield f"{name} takes no {', '.join(lacking)}"


def _requires_more(
    function: Callable[..., Any], name: str, given: tuple[str, ...]
) -> Iterator[str]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    more = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in variadic
        and parameter.name not in given
    ]
    if more:
        yield f"{name} requires {', '.join(more)}"


@contextmanager
def rebound(upstream: ModuleType, **names: object) -> Iterator[None]:
    """Give `names` of the module `upstream` other meanings until the end of the block."""
    before = {name: getattr(upstream, name) for name in names}
    for name, value in names.items():
        setattr(upstream, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(upstream, name, value)
