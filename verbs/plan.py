"""`plan`: what would be built, whether it fits, who can run it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..build import plan as planner
from ..models import gpu
from ..spec import Plan, Workload
from .source import resolve


def plan(checkpoint: str, gpu_name: str, quant_name: str, workload: Workload) -> Plan:
    """Plan the checkpoint or known model. A refusal is returned, not raised."""
    target, quant = gpu(gpu_name), planner.quant_named(quant_name)
    return planner.plan(resolve(checkpoint).model, target, quant, workload)


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as `plan --json` prints it."""
    return {**asdict(plan), "supported": plan.supported, "buildable": plan.buildable}
