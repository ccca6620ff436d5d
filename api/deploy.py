"""`deploy`: a bundle's manifests applied to a cluster, and its rollout watched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, Protocol

from ..core.bundle import Bundle
from ..core.errors import CheckFailedError
from ..core.files import list_files, sha256
from ..core.result import Result
from ..k8s.deploy import preflight
from ..k8s.deploy.changes import Change, changes
from ..k8s.deploy.diagnosis import Diagnosis
from ..k8s.deploy.errors import ConflictError
from ..k8s.deploy.kubectl import FIELD_MANAGER, Answer, Kubectl
from ..k8s.deploy.leftovers import leftovers
from ..k8s.deploy.outage import Outage, outage
from ..k8s.deploy.reader import cluster, read
from ..k8s.deploy.snapshot import Object, Snapshot, Target
from ..k8s.deploy.stages import ROLLOUT, Position, filling, rollout
from ..k8s.deploy.tree import Tree
from ..k8s.deploy.watch import Look, Outcome, Watch
from ..runtime import contract
from .bundle_in_cluster import connect

ROLLOUT_S: Final = 7200.0
"""How long a rollout is watched by default."""

_SERVED: Final = ("checkpoint", "engine", "model_repository")
_SERVER_SIDE: Final = ("--server-side", f"--field-manager={FIELD_MANAGER}")
_TAKE_OVER: Final = "--force-conflicts"

_KUBECTL_APPLY: Final = frozenset({"kubectl-client-side-apply", "kubectl"})
"""The managers of fields that `kubectl apply` sets, on the client's and on the server's side."""

_FILLING_GOES_ON: Final = (
    "The Job goes on filling the claim. The server has not been changed: the same command does "
    "that once the claim is filled."
)
_ROLLOUT_GOES_ON: Final = (
    "The rollout goes on in the cluster. The same command changes nothing more and watches it."
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What applying the bundle will do, known before: where, whether a Deployment of this name is
    there already, which objects change, what it means for clients, what to be aware of, what
    the cluster will refuse, and whether fields are taken over that `kubectl apply` set before."""

    name: str
    context: str | None
    namespace: str
    is_update: bool
    changes: tuple[Change, ...]
    outage: Outage
    warnings: tuple[str, ...]
    refusals: tuple[Diagnosis, ...]
    takes_over: bool = False


@dataclass(frozen=True, slots=True)
class StageTime:
    """How long a stage took, in seconds."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class DeployResult(Result):
    """A deployment. `state`: `dry-run`, `refused` (nothing was applied), `applied` (not watched),
    `filling` (the Job was applied and fills the claim), `ready`, `stalled` (waiting does not heal
    it) or `timeout`. `diagnoses` say why it is not ready, `next` which commands to type: to
    reach the server, or to go back to the bundle before."""

    SCHEMA: ClassVar[int] = 1

    bundle: Path
    digest: str
    state: str
    plan: Plan
    stages: tuple[StageTime, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()
    next: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the command did what it was called for."""
        return self.state not in ("refused", "stalled", "timeout") and not self.plan.refusals


class Listener(Protocol):
    """Receives the plan before it is carried out, and every look at the cluster."""

    def planned(self, plan: Plan) -> None: ...

    def looked(self, look: Look) -> None: ...


class Silent:
    """Shows nothing."""

    def planned(self, plan: Plan) -> None:
        """Ignore the plan."""

    def looked(self, look: Look) -> None:
        """Ignore a look."""


def deploy(
    bundle: str | Path,
    *,
    context: str | None = None,
    namespace: str | None = None,
    overlay: str | None = None,
    dry_run: bool = False,
    wait: bool = True,
    timeout: float | None = None,
    listener: Listener | None = None,
) -> DeployResult:
    """Apply the manifests of the bundle in the directory `bundle`, and watch the rollout.

    Where a Job fills the claim, it is applied and watched first, while an older bundle goes on
    serving; only then the server is applied.

    Args:
        bundle: The bundle's directory.
        context: The context of kubectl's configuration; None takes the current one.
        namespace: The namespace; None takes the one that the manifests name, else the context's.
        overlay: A folder of `k8s/overlays` to apply instead of the top of `k8s`.
        dry_run: Whether only to compare, and to let the API server check what it would refuse.
        wait: Whether to watch the rollout.
        timeout: Longest time to watch each phase, in seconds; None means `ROLLOUT_S` for the
            rollout, and no limit for filling the claim.
        listener: Receives the plan and every look at the cluster.

    Raises `UsageError` for a namespace other than the manifests', `BadInputError` where there is no
    bundle, no kubectl, no such context, or no cluster that answers or admits the user, and
    `CheckFailedError` for an incomplete bundle, manifests that were changed, or objects whose
    fields belong to another program.
    """
    opened, shown = Bundle.open(Path(bundle)), listener or Silent()
    opened.require_complete()
    _require_own_tree(opened)
    kubectl, tree = connect(opened, context, namespace, overlay)
    plan = _plan(kubectl, tree, opened)
    shown.planned(plan)
    result = DeployResult(opened.path, tree.digest, "dry-run", plan)
    if dry_run:
        return result
    if plan.refusals:
        return replace(result, state="refused", diagnoses=plan.refusals)
    return _Rollout(kubectl, tree, shown, result).run(wait, timeout)


def _require_own_tree(bundle: Bundle) -> None:
    """Raise `CheckFailedError` where the manifests are not those that the build wrote."""
    recorded = bundle.stage_digests("k8s")
    present = set(list_files(bundle.path, bundle.k8s)) if bundle.k8s.is_dir() else set()
    wrong = sorted(
        name
        for name in present | recorded.keys()
        if name not in present or sha256(bundle.path / name) != recorded.get(name)
    )
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise CheckFailedError(
            f"{bundle.path / wrong[0]}{more}: not as the build wrote it (missing, changed or "
            "added); put changes into an overlay of your own and apply that with kubectl, or build "
            "again"
        )


def _plan(kubectl: Kubectl, tree: Tree, bundle: Bundle) -> Plan:
    """Compare and check; nothing is changed."""
    difference = kubectl.call("diff", *_SERVER_SIDE, _TAKE_OVER, "-k", str(tree.path),
                              good=(0, 1))  # fmt: skip
    dry, takes_over = _dry_run(kubectl, tree)
    (merged,) = [item for item in dry.objects if item["kind"] == "Deployment"]
    live = next(iter(kubectl.items("get", "deployment", tree.name, "--ignore-not-found")), None)
    pods = _pods(kubectl, live) if live else []
    notes, refusals = _admission(kubectl, tree, is_update=live is not None)
    expected = outage(live, merged, pods, sum(map(bundle.stage_bytes, _SERVED)))
    if tree.waits_for_push and (live is None or expected.happens):
        notes.append(
            f"the server waits until the claim holds the bundle: nemo-deploy push {bundle.path}"
        )
    if live is not None:
        notes += leftovers(kubectl, tree)
    objects, _ = cluster(kubectl)
    around = preflight.warnings(tree.objects, live, objects, " ".join(kubectl.words))
    return Plan(
        name=tree.name,
        context=kubectl.context,
        namespace=kubectl.namespace,
        is_update=live is not None,
        changes=changes(difference.out),
        outage=expected,
        warnings=tuple(dict.fromkeys([*difference.warnings, *dry.warnings, *notes, *around])),
        refusals=refusals,
        takes_over=takes_over,
    )


def _dry_run(kubectl: Kubectl, tree: Tree) -> tuple[Answer, bool]:
    """What the API server makes of the tree, and whether fields are taken over for that.

    What `kubectl apply` set, it set from the manifests of a bundle, so they are. Raises
    `ConflictError` for fields of other programs.
    """
    words = ("apply", *_SERVER_SIDE, "--dry-run=server", "--output=json", "-k", str(tree.path))
    try:
        return kubectl.call(*words), False
    except ConflictError as error:
        if not error.managers <= _KUBECTL_APPLY:
            raise
    return kubectl.call(*words, _TAKE_OVER), True


def _admission(
    kubectl: Kubectl, tree: Tree, is_update: bool
) -> tuple[list[str], tuple[Diagnosis, ...]]:
    """What the API server warns of, and what it refuses, when pods are created.

    A quota that is used up is no refusal, because it may be free later; in an update the old pod
    uses what the new one will.
    """
    notes: list[str] = []
    refusals: list[Diagnosis] = []
    for workload in filter(None, (tree.deployment, tree.job)):
        refused, warned = preflight.refusal(kubectl, workload)
        notes += warned
        if refused is not None and not refused.heals:
            refusals.append(refused)
        elif refused is not None and not is_update:
            notes.append(str(refused))
    return notes, tuple(dict.fromkeys(refusals))


def _pods(kubectl: Kubectl, deployment: Object) -> list[Object]:
    labels = deployment["spec"]["selector"]["matchLabels"]
    return kubectl.items("get", "pods", f"--selector={','.join(map('='.join, labels.items()))}")


class _Rollout:
    """Applies a tree in its phases, and watches each."""

    def __init__(
        self, kubectl: Kubectl, tree: Tree, shown: Listener, planned: DeployResult
    ) -> None:
        self._kubectl, self._tree, self._shown = kubectl, tree, shown
        self._result = planned
        self._target = tree.target(kubectl, planned.bundle, tree.digest)

    def run(self, wait: bool, timeout: float | None) -> DeployResult:
        """Apply, and watch where `wait`."""
        if self._tree.fill is not None:
            self._apply(self._tree.fill)
            fill = replace(self._target, deployment=None)
            if not wait and not filling(read(self._kubectl, fill)).done:
                return replace(self._result, state="filling")
            outcome = self._watch(fill, filling, timeout, _FILLING_GOES_ON)
            if outcome.state != "done":
                return self._ended(outcome)
        self._apply(self._tree.path)
        if not wait:
            return replace(self._result, state="applied", next=self._next())
        limit = ROLLOUT_S if timeout is None else timeout
        return self._ended(self._watch(self._target, rollout, limit, _ROLLOUT_GOES_ON))

    def _apply(self, path: Path) -> None:
        taking = [_TAKE_OVER] if self._result.plan.takes_over else []
        self._kubectl.call("apply", *_SERVER_SIDE, *taking, "-k", str(path), finish=True)

    def _watch(
        self,
        target: Target,
        locate: Callable[[Snapshot], Position],
        limit: float | None,
        note: str,
    ) -> Outcome:
        try:
            look = partial(read, self._kubectl, target)
            outcome = Watch(look, locate, self._shown.looked).run(limit)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(note)
            raise
        times = [StageTime(name, round(s, 1)) for name, s in outcome.look.seconds.items()]
        self._result = replace(self._result, stages=(*self._result.stages, *times))
        return outcome

    def _ended(self, outcome: Outcome) -> DeployResult:
        if outcome.state == "done":
            return replace(self._result, state="ready", next=self._next())
        back: tuple[str, ...] = ()
        if self._result.plan.is_update and outcome.look.position.stage in ROLLOUT:
            back = (self._kubectl.typed("rollout", "undo", f"deployment/{self._tree.name}"),)
        diagnoses = outcome.look.diagnoses
        return replace(self._result, state=outcome.state, diagnoses=diagnoses, next=back)

    def _next(self) -> tuple[str, ...]:
        """What one types next, to reach the server and to measure it."""
        port = contract.GRPC.number
        forward = self._kubectl.typed(
            "port-forward", f"service/{self._tree.name}", f"{port}:{port}"
        )
        return forward, f"nemo-deploy loadtest grpc://127.0.0.1:{port}"
