"""The results of `plan`: one GPU and format, or all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..build.planner.money import Cost
from ..build.planner.offers import Offer
from ..core.result import Result
from ..model.spec import Concession, EnginePart, Estimate, Serving, Workload


@dataclass(frozen=True, slots=True)
class PeerComparison:
    """A peer on the same GPUs in the same format, and how many times its output tokens a second
    ours are: each at the most sequences within the objective, and both at the peer's number."""

    model: str
    weights_bytes: int
    max_concurrency: int
    concurrency: int
    output_tokens_per_s: float
    times_at_best: float
    times_at_same: float


@dataclass(frozen=True, slots=True)
class PlanResult(Result):
    """A plan (see `Plan` for its fields), what it costs and why it was chosen.

    `backend`, `plugin`, `image`, `trtllm_versions`, `tried`, `needs`, `llm_args` and `env` repeat
    what `engine` has (`versions`, `evidence` and `args` under older names), whatever the engine.
    `why` is set where no format was asked for. `against` is the comparison with a peer,
    `not_against` the reason why there is none. `engines` are what all engines offer for this GPU
    and format; `engine_hint` says, where the default one needs what has not served on such a GPU
    and another one does not, which that is and how to build for it.
    """

    SCHEMA: ClassVar[int] = 1

    model: str
    gpu: str
    gpu_name: str
    gpus: int
    sm: int
    quant: Mapping[str, str | None]
    layers: str
    status: str
    rule: str
    reasons: tuple[str, ...]
    needs: tuple[str, ...]
    alternatives: tuple[str, ...]
    notes: tuple[str, ...]
    engine: EnginePart
    serving: Serving
    concessions: tuple[Concession, ...]
    backend: str
    plugin: str
    image: str
    trtllm_versions: str
    tried: str
    weights_bytes: int
    kv_dtype: str
    kv_bytes_per_token: int
    state_bytes_per_sequence: int
    conv_bytes_per_sequence: int
    memory: Mapping[str, int]
    free_bytes: int
    concurrency: int
    context: int
    max_concurrency: int
    max_context: int
    llm_args: Mapping[str, Any]
    env: Mapping[str, str]
    estimate: Estimate | None
    supported: bool
    buildable: bool
    cost: Cost | None
    why: str | None = None
    against: PeerComparison | None = None
    not_against: str | None = None
    engines: tuple[Offer, ...] = ()
    engine_hint: str | None = None

    @property
    def refused(self) -> bool:
        return self.status == "refused"


@dataclass(frozen=True, slots=True)
class MatrixChoice:
    """A GPU, the number of them, and a format."""

    gpu: str
    gpus: int
    quant: str


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """One GPU and format, planned for `engine`. `others` are other engines that serve it with
    nothing unproven.

    `tried` is whether what serves it has served on such a GPU. `served` is whether any engine runs
    it on a GPU. `concessions` are what the server gives up to fit. `tpot_ms` is the time per token
    of a single sequence, and `output_tokens_per_s_per_gpu` the speed at the most sequences within
    the objective. The server is configured for `concurrency` sequences.
    """

    gpu: str
    gpus: int
    quant: str
    engine: str
    others: tuple[str, ...]
    status: str
    supported: bool
    served: bool
    rule: str
    reasons: tuple[str, ...]
    alternatives: tuple[str, ...]
    tried: bool
    concessions: tuple[Concession, ...]
    concurrency: int
    max_context: int
    max_concurrency: int
    tpot_ms: float | None
    output_tokens_per_s_per_gpu: float | None
    cost: Cost | None

    @property
    def refused(self) -> bool:
        return self.status == "refused"


@dataclass(frozen=True, slots=True)
class MatrixResult(Result):
    """All GPUs and formats, the best of them, and why it is the best. `engine` is what they were
    planned for: an engine, or `auto` for the one that is preferred in each cell."""

    SCHEMA: ClassVar[int] = 1

    model: str
    workload: Workload
    engine: str
    optimize: str
    best: MatrixChoice | None
    why: str | None
    cells: tuple[MatrixCell, ...]

    def is_best(self, cell: MatrixCell) -> bool:
        """Whether `cell` is the best one."""
        return self.best == MatrixChoice(cell.gpu, cell.gpus, cell.quant)
