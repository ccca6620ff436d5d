"""What of the plugin and its kernels has run on hardware, from `data/hardware.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from ....model.spec import Gpu
from ...kernels.source import source_digest
from ..rules import Rule
from .support import RULES

RECORD: Final = Path(__file__).parent / "data" / "hardware.json"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the kernels on a GPU.

    `source` is the digest of the kernels' sources; `error` the largest relative error against the
    FP32 reference; `speedup` the time of the same layer in BF16 over ours, by number of tokens;
    `over_byte_limit` our time over that of reading the weights once; `stored_cubins` whether the
    kernels compiled ahead of time ran; `served_by` the TensorRT-LLM version that served a model
    with them, empty where the kernels ran by themselves; `quant` the format of the weights.
    """

    gpu: str
    sm: int
    date: str
    source: str
    torch: str
    triton: str
    error: float
    speedup: dict[str, float]
    over_byte_limit: dict[str, float]
    stored_cubins: bool
    served_by: str = ""
    quant: str = "int4"


@cache
def runs() -> tuple[Run, ...]:
    """All runs on record, oldest first."""
    return tuple(Run(**row) for row in json.loads(RECORD.read_text(encoding="utf-8"))["runs"])


def add(run: Run, record: Path = RECORD) -> None:
    """Add a run to the record."""
    document: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    document["runs"].append(asdict(run))
    record.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _runs_on(gpu: Gpu, rule: Rule, known: tuple[Run, ...] | None = None) -> list[Run]:
    """The runs of the rule's format on GPUs of the same architecture, oldest first; `known`
    replaces the runs on record."""
    among = runs() if known is None else known
    return [run for run in among if run.sm == gpu.sm and run.quant == rule.quant]


def proven(rule: Rule, gpu: Gpu) -> bool:
    """Whether what serves the rule's format has served on such a GPU. Upstream's own counts as
    proven, the plugin only after a run in which it served a model."""
    return not rule.plugin or any(run.served_by for run in _runs_on(gpu, rule))


def tested_on(rule: Rule, gpu: Gpu) -> tuple[str, ...]:
    """The GPUs of this architecture on which nemo-deploy ran what the rule's format needs, with
    what ran and when."""
    if not rule.plugin:
        return ()
    return tuple(
        f"{run.gpu}, {run.date}: {f'TensorRT-LLM {run.served_by}' if run.served_by else 'kernels'}"
        for run in _runs_on(gpu, rule)
    )


def evidence(rule: Rule, gpu: Gpu, known: tuple[Run, ...] | None = None) -> str:
    """What of the rule's format has run on hardware, in a few sentences, and whether TensorRT-LLM's
    makers list the GPU as supported; `known` replaces the runs on record."""
    if rule.status not in ("supported", "needs") or not rule.served:
        return ""
    unlisted = "" if gpu.key in RULES.listed else f" {_UNLISTED}"
    return _what_ran(rule, gpu, known) + unlisted


_UNLISTED: Final = "TensorRT-LLM's makers do not list this GPU among those that they support."


def _what_ran(rule: Rule, gpu: Gpu, known: tuple[Run, ...] | None) -> str:
    if not rule.plugin:
        return "nemo-deploy has not run this on a GPU; the code is TensorRT-LLM's own."
    same = _runs_on(gpu, rule, known)
    plugin = "The plugin has run with a stand-in for TensorRT-LLM only, not with the real one."
    if not same:
        kernels = (
            f"The {rule.quant.upper()} kernels have not run on an SM{gpu.sm} GPU yet: their "
            "results are checked in Triton's interpreter, their machine code by the compiler's "
            "reports."
        )
    else:
        last = same[-1]
        state = "the same kernels" if last.source == source_digest() else "an older version of them"
        kernels = (
            f"The kernels: {state} ran on an {last.gpu} on {last.date} with an error of "
            f"{last.error:.1e} against FP32."
        )
    return f"{kernels} {plugin}"
