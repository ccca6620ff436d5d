"""The model that TensorRT-LLM finds under the checkpoint's architecture once this is imported.

`register_auto_model` keeps the last registration of a name in older versions and lets external
modules win in newer ones; upstream's own module is imported first, here, so this one is last.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import tensorrt_llm
import torch
from tensorrt_llm._torch.models import modeling_nemotron_h as upstream
from tensorrt_llm._torch.models.modeling_utils import register_auto_model
from torch import nn

from ..kernels.load import open_store
from . import seam, settings
from .experts import PackedModule, RoutedExperts, SharedExpert, WeightError
from .routing import RouterError

log = logging.getLogger(__name__)

PACKAGE: Final = Path(__file__).resolve().parents[1]
"""`engine/plugin/nemo_deploy_experts`."""

KERNELS: Final = PACKAGE.parents[1] / "kernels"
"""`engine/kernels`."""

seam.require(upstream, tensorrt_llm.__version__)
SETTINGS: Final = settings.read(PACKAGE)


class UnsupportedError(ValueError):
    """A way to run the model that the plugin does not know; the message says what does work."""


@register_auto_model("NemotronHForCausalLM")
class PackedNemotronHForCausalLM(upstream.NemotronHForCausalLM):  # type: ignore[misc]  # no types
    """TensorRT-LLM's Nemotron-H, with experts of ours in the layers that `format.json` names."""

    def __init__(self, model_config: Any) -> None:
        _require_supported(model_config)
        create_moe, mlp = upstream.create_moe, upstream.MLP

        def experts(**given: Any) -> nn.Module:
            if given["layer_idx"] not in SETTINGS.routed_layers:
                return cast("nn.Module", create_moe(**given))
            if given["reduce_results"] or given["bias"]:
                raise UnsupportedError("our experts neither have a bias nor add up over ranks")
            mapping = given["model_config"].mapping
            return RoutedExperts(
                routing=given["routing_method"],
                experts=given["num_experts"],
                hidden=given["hidden_size"],
                width=given["intermediate_size"],
                group=SETTINGS.group_size,
                bits=SETTINGS.bits,
                scale_divisor=SETTINGS.scale_divisor,
                top_k=SETTINGS.top_k,
                rank=mapping.moe_ep_rank,
                ranks=mapping.moe_ep_size,
                layer=given["layer_idx"],
            )

        def shared(**given: Any) -> nn.Module:
            if given["layer_idx"] not in SETTINGS.shared_layers:
                return cast("nn.Module", mlp(**given))
            mapping = given["config"].mapping
            return SharedExpert(
                hidden=given["hidden_size"],
                width=given["intermediate_size"],
                group=SETTINGS.group_size,
                bits=SETTINGS.bits,
                scale_divisor=SETTINGS.scale_divisor,
                rank=mapping.tp_rank,
                ranks=mapping.tp_size,
                layer=given["layer_idx"],
            )

        with seam.rebound(upstream, create_moe=experts, MLP=shared):
            super().__init__(model_config)
        made = [module for module in self.modules() if isinstance(module, PackedModule)]
        wanted = len(SETTINGS.routed_layers) + len(SETTINGS.shared_layers)
        if len(made) != wanted:
            raise UnsupportedError(
                f"TensorRT-LLM {tensorrt_llm.__version__} made {len(made)} of {wanted} groups of "
                f"experts through the plugin, which was written against {seam.VERSIONS}"
            )

    # Upstream passes what this signature names (`inspect.getfullargspec` in `_call_load_weights`),
    # so a wrapper's `*args` would get no mapper. `allow_partial_loading`, which later versions
    # offer, is left out on purpose: the checks below need all weights at once.
    def load_weights(self, weights: Mapping[str, Any], weight_mapper: Any) -> None:
        """Upstream's; then checks that all weights came, loads the kernels, and tries them."""
        super().load_weights(weights, weight_mapper=weight_mapper)
        own = [module for module in self.modules() if isinstance(module, PackedModule)]
        empty = [module.name for module in own if not module.loaded]
        if empty:
            raise WeightError(f"TensorRT-LLM loaded no weights into {', '.join(empty)}")
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            _open_kernels()
        _choose_here([module for module in own if isinstance(module, RoutedExperts)])
        tried: set[type] = set()
        for module in own if on_gpu else ():
            module.check(many=type(module) not in tried)
            tried.add(type(module))


def _require_supported(model_config: Any) -> None:
    mapping = model_config.mapping
    if mapping.enable_attention_dp:
        raise UnsupportedError("nemo-deploy's plugin does not run with attention data parallelism")
    if mapping.moe_ep_size != mapping.tp_size:
        raise UnsupportedError(
            f"experts are split by expert: set moe_expert_parallel_size to "
            f"{mapping.tp_size}, the number of GPUs, instead of {mapping.moe_ep_size}"
        )


def _choose_here(layers: list[RoutedExperts]) -> None:
    """Let our kernel choose each layer's experts, or upstream where it would choose otherwise."""
    try:
        for layer in layers:
            layer.choose_here()
    except RouterError as error:
        log.warning("TensorRT-LLM chooses the experts, in several launches a layer: %s", error)


def _open_kernels() -> None:
    """Load the stored kernels for this process' GPU: a graph capture must find them loaded."""
    device = torch.cuda.current_device()
    major, minor = torch.cuda.get_device_capability(device)
    store = KERNELS / f"sm_{10 * major + minor}"
    if store.is_dir():
        open_store(store, device)
    else:
        log.warning("no kernels were built for SM %d%d: compiling them here", major, minor)
