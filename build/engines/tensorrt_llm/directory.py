"""The engine directory: what TensorRT-LLM needs to serve a checkpoint on one kind of GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....core.checks import Check
from ....core.errors import CheckFailedError
from ....model.spec import Plan
from ....runtime.yaml_reader import read_yaml_document
from . import experts
from .arguments import problems


def emit(dest: Path, plan: Plan, driver: Mapping[str, Any] | None = None) -> None:
    """Write `engine.json` and `llm_args.yaml` into the existing directory `dest`. `driver` is the
    oldest NVIDIA driver that loads the kernels in there.

    Raises `CheckFailedError` when an argument is one TensorRT-LLM would refuse.
    """
    import yaml

    wrong = problems(plan.engine.args, plan.engine.versions)
    if wrong:
        raise CheckFailedError(f"llm_args: {'; '.join(wrong)}")
    record = {**describe(plan), "driver": dict(driver) if driver else None}
    text = json.dumps(record, indent=2) + "\n"
    (dest / "engine.json").write_text(text, encoding="utf-8")
    head = (
        f"# Keyword arguments of tensorrt_llm.LLM() for {plan.model}, {plan.quant['effective']}, "
        f"{plan.gpus} x {plan.gpu}.\n# `model` is filled in where the bundle lies.\n"
    )
    body = yaml.safe_dump(dict(plan.engine.args), sort_keys=False)
    (dest / "llm_args.yaml").write_text(head + body, encoding="utf-8")


def describe(plan: Plan) -> dict[str, Any]:
    """What `engine.json` holds of the plan: the target, and what may serve it."""
    return {
        "model": plan.model,
        "gpu": plan.gpu,
        "gpus": plan.gpus,
        "sm": plan.sm,
        "quant": dict(plan.quant),
        "engine": plan.engine.name,
        "backend": plan.engine.backend,
        "trtllm_versions": plan.engine.versions,
        "image": plan.engine.image,
        "needs": list(plan.engine.needs),
        "plugin": plan.engine.plugin or None,
    }


def check(engine: Path) -> list[Check]:
    """Check the engine directory of a bundle: both files parse, arguments are known and typed."""
    try:
        record = json.loads((engine / "engine.json").read_text(encoding="utf-8"))
        args = read_yaml_document(engine / "llm_args.yaml")
    except (OSError, ValueError) as error:
        return [Check("engine", False, f"{engine}: {error}")]
    if not isinstance(record, dict) or not isinstance(args, dict):
        return [Check("engine", False, f"{engine}: engine.json or llm_args.yaml is no mapping")]
    versions = str(record.get("trtllm_versions"))
    wrong = problems(args, versions)
    known = f"{len(args)} arguments known to TensorRT-LLM {versions}"
    checks = [Check("llm_args.yaml", not wrong, "; ".join(wrong) or known)]
    if record.get("plugin"):
        checks += experts.check(engine, int(record.get("sm") or 0))
    return checks
