"""Plans of Nemotron 3 Nano."""

from __future__ import annotations

from typing import Any

from nemotron_deploy.build.engines.registry import engine
from nemotron_deploy.build.planner.plan import plan
from nemotron_deploy.model.architecture import Model
from nemotron_deploy.model.catalog import gpu, known_model
from nemotron_deploy.model.formats import QUANTS
from nemotron_deploy.model.spec import Plan, Workload


def nano() -> Model:
    model = known_model("nemotron-3-nano-30b-a3b")
    assert model is not None
    return model


def planned(gpu_name: str, quant: str, trtllm: str | None = None, **workload: Any) -> Plan:
    target = engine("tensorrt-llm", trtllm)
    return plan(nano(), gpu(gpu_name), QUANTS[quant], Workload(**workload), target)
