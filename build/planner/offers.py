"""What each engine offers for a GPU and format, side by side, and which of them to take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ...model.formats import Quant
from ...model.spec import EnginePart, Gpu, Workload
from ..engines.base import PlannedEngine, named_part
from ..engines.registry import DEFAULT, ENGINES
from ..engines.rules import Rule
from .verdict import Candidate, Judge, Verdict

RELEASED: Final = "released parts alone"
PLUGIN: Final = "nemo-deploy's plugin and kernels"
NOTHING: Final = "nothing that runs on a GPU"


@dataclass(frozen=True, slots=True)
class Offer:
    """What an engine offers.

    `status` is that of a plan, `rule` what decides, and `reason` why. `rests_on` says in words what
    serves it, `tested_on` lists the GPUs on which nemo-deploy has run that. `proven` is whether it
    has served on such a GPU, by us or by the engine's makers. `concurrency` is how many sequences
    fit.
    """

    engine: str
    title: str
    versions: str
    image: str
    status: str
    rule: str
    reason: str
    rests_on: str
    tested_on: tuple[str, ...]
    proven: bool
    concurrency: int

    @property
    def ready(self) -> bool:
        """Whether it can be served on such a GPU with nothing unproven."""
        return self.status == "supported" and self.proven


def offers(
    judge: Judge,
    gpu: Gpu,
    quant: Quant,
    workload: Workload,
    given: PlannedEngine | None = None,
) -> tuple[Offer, ...]:
    """What every engine that bundles are built for offers, the default first. `given` takes the
    place of the engine of its name, at another version."""
    engines: list[PlannedEngine] = [
        given if given is not None and given.name == name else make(None)
        for name, make in ENGINES.items()
    ]
    return tuple(_offer(judge, Candidate(gpu, quant, workload, engine)) for engine in engines)


def _offer(judge: Judge, candidate: Candidate) -> Offer:
    engine, verdict = candidate.engine, judge.verdict(candidate)
    rule, refusal = verdict.rule, verdict.refusal
    part = named_part(engine) if refusal else _part(candidate, verdict)
    return Offer(
        engine=engine.name,
        title=engine.title,
        versions=part.versions,
        image=part.image,
        status="refused" if refusal else rule.status,
        rule=refusal.rule if refusal else rule.key,
        reason=refusal.reason if refusal else rule.reason.format(sm=candidate.gpu.sm),
        rests_on="" if refusal else _rests_on(rule, part),
        tested_on=part.tested_on,
        proven=part.proven,
        concurrency=0 if refusal else verdict.fitting,
    )


def _part(candidate: Candidate, verdict: Verdict) -> EnginePart:
    return candidate.engine.part(
        verdict.rule,
        candidate.gpu,
        candidate.workload,
        verdict.serving,
        verdict.concurrency,
        verdict.context,
    )


def _rests_on(rule: Rule, part: EnginePart) -> str:
    if not rule.served:
        return NOTHING
    return PLUGIN if part.plugin else RELEASED


def preferred(offered: Iterable[Offer]) -> str:
    """The engine that `--engine auto` takes: the default one where it is ready, else the first one
    that is, else the default one."""
    ready = [offer.engine for offer in offered if offer.ready]
    return DEFAULT if DEFAULT in ready or not ready else ready[0]


def hint(offered: Iterable[Offer], engine: str, command: str) -> str | None:
    """One line where another engine than the default `engine` needs nothing unproven and that one
    does, with the `command` that builds for it; None elsewhere."""
    by_name = {offer.engine: offer for offer in offered}
    other = by_name[preferred(by_name.values())]
    if engine != DEFAULT or other.engine == DEFAULT:
        return None
    return (
        f"{_shortcoming(by_name[engine])}; {other.title} serves it with {other.rests_on}: "
        f"{command} --engine {other.engine}"
    )


def _shortcoming(offer: Offer) -> str:
    """Why an offer is not ready, in a clause."""
    if offer.status == "refused" or offer.rests_on == NOTHING:
        return f"{offer.title} does not serve this here"
    if offer.status == "needs":
        return f"{offer.title} {offer.versions} needs more than a Triton image for this"
    return f"{offer.title} needs {offer.rests_on} for this, which have not served on such a GPU yet"
