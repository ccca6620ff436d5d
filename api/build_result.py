"""The results of `build`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..build.planner.offers import Offer
from ..core.result import Result
from ..model.spec import Concession


@dataclass(frozen=True, slots=True)
class BuildResult(Result):
    """A bundle that is complete.

    Attributes:
        bundle: Its directory.
        name: Its name, which is also that of the Kubernetes objects.
        model_name: The name under which the model is served.
        made: Stages that this build made, in order.
        kept: Stages that were up to date.
        files: Number of files.
        bytes: Their size.
        checkpoint_bytes: The size of the quantized checkpoint.
        backend: The engine's backend.
        needs: What serving it needs beyond a released engine.
        reasons: Why the plan is what it is.
        calibration: The calibration text of the checkpoint; None without calibration.
        thin: Why that text is too little; None where it is enough.
        warnings: Sentences about the source.
        concessions: What the server gives up so that the model fits.
        engine: The engine that it was built for.
        engines: What all engines offer for this GPU and format.
        engine_hint: One line where another engine needs nothing unproven and this one does.
        weights: How the weights get to the cluster: `job`, `claim` or `image`.
    """

    SCHEMA: ClassVar[int] = 1

    bundle: Path
    name: str
    model_name: str
    made: tuple[str, ...]
    kept: tuple[str, ...]
    files: int
    bytes: int
    checkpoint_bytes: int
    backend: str
    needs: tuple[str, ...]
    reasons: tuple[str, ...]
    calibration: str | None
    thin: str | None
    warnings: tuple[str, ...]
    concessions: tuple[Concession, ...] = ()
    engine: str = ""
    engines: tuple[Offer, ...] = ()
    engine_hint: str | None = None
    weights: str = "job"


@dataclass(frozen=True, slots=True)
class BuildStep:
    """What a build would do with one stage: `action` is `make` or `keep`; `why` it would be made,
    None where it is kept."""

    stage: str
    action: str
    what: str
    why: str | None


@dataclass(frozen=True, slots=True)
class DryRunResult(Result):
    """What a build would do. `fetch` is what it would download and the disk that this takes (see
    `sources.fetching.fetch_plan`), None for nothing; `warnings` are sentences about the source,
    `concessions` what the server gives up so that the model fits. `engine`, `engines` and
    `engine_hint` are as of `BuildResult`."""

    SCHEMA: ClassVar[int] = 1

    bundle: Path
    stages: tuple[BuildStep, ...]
    fetch: dict[str, Any] | None
    warnings: tuple[str, ...]
    concessions: tuple[Concession, ...] = ()
    engine: str = ""
    engines: tuple[Offer, ...] = ()
    engine_hint: str | None = None
