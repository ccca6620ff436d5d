"""When a watch ends: on a clock of its own, with recorded snapshots."""

from __future__ import annotations

import pytest

from nemotron_deploy.k8s.deploy.errors import UnreachableError
from nemotron_deploy.k8s.deploy.snapshot import Snapshot
from nemotron_deploy.k8s.deploy.stages import rollout
from nemotron_deploy.k8s.deploy.watch import EVERY_S, NODE_S, SETTLE_S, UNREACHABLE_S, Look, Watch
from nemotron_deploy.tests.k8s.recorded_rollouts import snapshot


class Clock:
    """A clock that stands still but for pauses."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


class Cluster:
    """Gives the recordings one after the other, the last one for ever; None: no answer."""

    def __init__(self, *names: str | None) -> None:
        self.names = list(names)

    def read(self) -> Snapshot:
        name = self.names.pop(0) if len(self.names) > 1 else self.names[0]
        if name is None:
            raise UnreachableError("no cluster answers")
        return snapshot(name)


def watch(cluster: Cluster, clock: Clock, looks: list[Look]) -> Watch:
    return Watch(cluster.read, rollout, looks.append, clock=clock, pause=clock.pause)


def test_a_rollout_passes_its_stages() -> None:
    clock, looks = Clock(), list[Look]()
    cluster = Cluster("quota-used", "verifying", "loading", "loading", "golden", "ready")
    outcome = watch(cluster, clock, looks).run()
    assert outcome.state == "done"
    stages = [look.position.stage for look in looks]
    assert stages == ["scheduled", "verifying", "loading", "loading", "golden", "ready"]
    assert outcome.look.seconds == {
        "scheduled": EVERY_S, "verifying": EVERY_S, "loading": 2 * EVERY_S, "golden": EVERY_S,
        "ready": 0,
    }  # fmt: skip
    assert outcome.look.diagnoses == ()


@pytest.mark.parametrize(
    ("name", "cause", "seconds"),
    [("pod-security", "pod-security", SETTLE_S), ("other-gpu", "no-matching-node", NODE_S)],
)
def test_what_waiting_does_not_heal_ends_the_watch_after_a_while(
    name: str, cause: str, seconds: float
) -> None:
    clock = Clock()
    outcome = watch(Cluster(name), clock, []).run(timeout=3600)
    assert outcome.state == "stalled"
    assert [row.cause for row in outcome.look.diagnoses] == [cause]
    assert clock.now == 100 + seconds


def test_a_cause_that_goes_away_ends_nothing() -> None:
    names = ["pod-security"] * 8 + ["loading"] + ["pod-security"] * 8 + ["ready"]
    assert watch(Cluster(*names), Clock(), []).run().state == "done"


def test_what_may_heal_is_shown_until_the_time_is_over() -> None:
    clock, looks = Clock(), list[Look]()
    outcome = watch(Cluster("busy"), clock, looks).run(timeout=60)
    assert outcome.state == "timeout"
    assert {row.cause for look in looks for row in look.diagnoses} == {"no-free-node"}
    assert clock.now == 160


def test_an_api_server_may_be_away_for_a_while() -> None:
    names: list[str | None] = [None, "loading", *[None] * 20, "ready"]
    assert watch(Cluster(*names), Clock(), []).run().state == "done"


def test_an_api_server_that_stays_away_ends_the_watch() -> None:
    clock = Clock()
    with pytest.raises(UnreachableError):
        watch(Cluster("loading", None), clock, []).run()
    assert UNREACHABLE_S < clock.now - 100 < UNREACHABLE_S + 3 * EVERY_S
