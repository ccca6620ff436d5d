"""What every engine directory holds: `engine.json`, which says what may serve it and on what, and
the engine's arguments as YAML."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.checks import Check
from ...core.errors import CheckFailedError
from ...model.catalog import gpu as gpu_named
from ...model.spec import Plan
from ...runtime.yaml_reader import read_yaml_document


@dataclass(frozen=True, slots=True)
class EngineFiles:
    """How an engine's directory is written.

    `title` is the engine's name, `versions` the field of `engine.json` for its versions,
    `arguments` the name of the file of arguments and `takes` what they are arguments of. `problems`
    gives what the engine of some versions would refuse in arguments.
    """

    title: str
    versions: str
    arguments: str
    takes: str
    problems: Callable[[Mapping[str, Any], str], list[str]]

    def describe(self, plan: Plan) -> dict[str, Any]:
        """What `engine.json` holds of the plan: the target, and what may serve it."""
        return {
            "model": plan.model,
            "gpu": plan.gpu,
            "gpus": plan.gpus,
            "sm": plan.sm,
            "gpu_memory_bytes": gpu_named(plan.gpu).cuda_bytes,
            "quant": dict(plan.quant),
            "engine": plan.engine.name,
            "backend": plan.engine.backend,
            self.versions: plan.engine.versions,
            "image": plan.engine.image,
            "needs": list(plan.engine.needs),
            "plugin": plan.engine.plugin or None,
        }

    def emit(self, dest: Path, plan: Plan, driver: Mapping[str, Any] | None = None) -> None:
        """Write both files into the existing directory `dest`. `driver` is the oldest NVIDIA driver
        that loads the kernels in there.

        Raises `CheckFailedError` when an argument is one that the engine would refuse.
        """
        import yaml

        wrong = self.problems(plan.engine.args, plan.engine.versions)
        if wrong:
            raise CheckFailedError(f"{Path(self.arguments).stem}: {'; '.join(wrong)}")
        record = {**self.describe(plan), "driver": dict(driver) if driver else None}
        text = json.dumps(record, indent=2) + "\n"
        (dest / "engine.json").write_text(text, encoding="utf-8")
        head = (
            f"# Keyword arguments of {self.takes} for {plan.model}, {plan.quant['effective']}, "
            f"{plan.gpus} x {plan.gpu}.\n# `model` is filled in where the bundle lies.\n"
        )
        body = yaml.safe_dump(dict(plan.engine.args), sort_keys=False)
        (dest / self.arguments).write_text(head + body, encoding="utf-8")

    def check(self, engine: Path) -> tuple[list[Check], Mapping[str, Any]]:
        """Check that both files parse, and that the arguments are known and typed. Gives the checks
        and what `engine.json` holds, which is nothing where it cannot be read."""
        try:
            record = json.loads((engine / "engine.json").read_text(encoding="utf-8"))
            args = read_yaml_document(engine / self.arguments)
        except (OSError, ValueError) as error:
            return [Check("engine", False, f"{engine}: {error}")], {}
        if not isinstance(record, dict) or not isinstance(args, dict):
            detail = f"{engine}: engine.json or {self.arguments} is no mapping"
            return [Check("engine", False, detail)], {}
        versions = str(record.get(self.versions))
        wrong = self.problems(args, versions)
        known = f"{len(args)} arguments known to {self.title} {versions}"
        return [Check(self.arguments, not wrong, "; ".join(wrong) or known)], record
