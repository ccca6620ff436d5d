"""How far a rollout is, what it costs, and what changes: pure functions of API objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.k8s.deploy.changes import changes
from nemotron_deploy.k8s.deploy.outage import ENGINE_START_S, outage, serving_during, start_seconds
from nemotron_deploy.k8s.deploy.requests import requests, shown
from nemotron_deploy.k8s.deploy.snapshot import Object
from nemotron_deploy.k8s.deploy.stages import (
    PROGRESS,
    Position,
    Progress,
    filling,
    is_rolled_out,
    progress_in,
    rollout,
)
from nemotron_deploy.tests.k8s.recorded_rollouts import only, snapshot

Change = Callable[[list[Object]], Any]


@pytest.mark.parametrize(
    ("name", "stage", "detail"),
    [
        ("quota-used", "scheduled", "the pod is being created"),
        ("other-gpu", "scheduled", "waits for a node"),
        ("image-never", "pulling", " on here"),
        ("verifying", "verifying", " on here"),
        ("crash-check-bundle", "verifying", " on here"),
        ("loading", "loading", " on here"),
        ("crash-server", "loading", " on here"),
        ("golden", "golden", " on here"),
        ("ready", "ready", "1 of 1"),
    ],
)
def test_the_stage_of_a_rollout(name: str, stage: str, detail: str) -> None:
    position = rollout(snapshot(name))
    assert position.stage == stage
    assert position.detail.endswith(detail)
    assert position.done == (stage == "ready")


@pytest.mark.parametrize(
    ("name", "done"), [("filling", False), ("job-failed", False), ("job-full", False)]
)
def test_the_stage_of_a_filling_job(name: str, done: bool) -> None:
    position = filling(snapshot(name))
    assert (position.stage, position.done) == ("filling", done)


def test_a_filling_job_reports_its_progress() -> None:
    progress = filling(snapshot("filling")).progress
    assert progress == Progress("checkpoint", 12e9, 63e9, "bytes", 80e6, 637)


def test_a_job_whose_container_has_ended_is_still_filling() -> None:
    """Until the Job's controller has seen it."""

    def ended(objects: list[Object]) -> None:
        (status,) = only(objects, "Pod")["status"]["containerStatuses"]
        status["state"] = {"terminated": {"exitCode": 0}}

    position = filling(snapshot("filling", ended))
    assert (position.stage, position.done) == ("filling", False)


def test_a_stage_does_not_go_back_between_two_containers() -> None:
    """The bundle is checked, and the server's container is being made."""

    def checked(objects: list[Object]) -> None:
        (status,) = only(objects, "Pod")["status"]["initContainerStatuses"]
        status["state"] = {"terminated": {"exitCode": 0}}

    assert rollout(snapshot("verifying", checked)).stage == "loading"


def test_a_job_that_has_ended_is_done() -> None:
    def complete(objects: list[Object]) -> None:
        only(objects, "Job")["status"]["conditions"] = [{"type": "Complete", "status": "True"}]

    assert filling(snapshot("filling", complete)).done


def test_a_state_that_the_controller_has_not_seen_does_not_count() -> None:
    """The status is still that of the specification before."""

    def changed(objects: list[Object]) -> None:
        only(objects, "Deployment")["metadata"]["generation"] += 1

    position = rollout(snapshot("ready", changed))
    assert (position.stage, position.done) == ("scheduled", False)
    assert position.detail == "the Deployment is being changed"


@pytest.mark.parametrize(
    "status",
    [
        {"replicas": 2, "updatedReplicas": 1, "availableReplicas": 2},
        {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 1},
        {"replicas": 3, "updatedReplicas": 2, "availableReplicas": 2},
    ],
)
def test_a_rollout_ends_when_only_new_pods_serve(status: dict[str, int]) -> None:
    deployment = {
        "metadata": {"generation": 2},
        "spec": {"replicas": 2},
        "status": {"observedGeneration": 2, **status},
    }
    assert not is_rolled_out(deployment)
    deployment["status"] |= {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    assert is_rolled_out(deployment)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"step": 1}',
        '{"step": "x", "done": "many"}',
        '{"step": "x", "done": true}',
        '{"step": "x", "done": NaN}',
        '{"step": "x", "total": 1e400}',
        '{"step": "x", "seconds_left": -1}',
        pytest.param("[" * 100_000, id="nested"),
    ],
)
def test_lines_that_are_no_progress_are_passed_over(text: str) -> None:
    good = PROGRESS + '{"step": "x", "done": 1, "total": null}'
    assert progress_in([good, PROGRESS + text]) == Progress("x", 1)


@given(st.text())
def test_no_log_breaks_the_view(text: str) -> None:
    progress_in([PROGRESS + text])


# What a rollout means for clients.


def deployment(replicas: int = 1, image: str = "a", serving: int = 1, **rolling: Any) -> Object:
    return {
        "spec": {
            "replicas": replicas,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "template": {"spec": {"image": image, "terminationGracePeriodSeconds": 330}},
        },
        "status": {"availableReplicas": serving},
    }


@pytest.mark.parametrize(
    ("replicas", "rolling", "kept"),
    [
        (1, {"maxSurge": 0, "maxUnavailable": 1}, 0),
        (1, {"maxSurge": 1, "maxUnavailable": 0}, 1),
        (3, {"maxSurge": 0, "maxUnavailable": 1}, 2),
        (1, {}, 1),
        (4, {}, 3),
        (3, {"maxSurge": "0%", "maxUnavailable": "10%"}, 2),
        (2, {"maxSurge": 0, "maxUnavailable": "100%"}, 0),
    ],
)
def test_replicas_that_go_on_serving(replicas: int, rolling: dict[str, Any], kept: int) -> None:
    assert serving_during(deployment(replicas, **rolling)) == kept


def test_recreating_keeps_none() -> None:
    spec = {"replicas": 3, "strategy": {"type": "Recreate"}}
    assert serving_during({"spec": spec}) == 0


NO_SPARE: dict[str, Any] = {"maxSurge": 0, "maxUnavailable": 1}


def test_one_replica_without_a_spare_gpu_means_an_outage_of_the_measured_length() -> None:
    recorded = snapshot("ready")
    (pod,) = recorded.new_pods
    for row in pod["status"]["conditions"]:
        second = "00:00:00" if row["type"] == "PodScheduled" else "00:03:58"
        row["lastTransitionTime"] = f"2026-11-27T{second}Z"
    assert start_seconds(pod) == 238
    new = deployment(image="b", **NO_SPARE)
    expected = outage(deployment(**NO_SPARE), new, [pod], 60_000_000_000)
    assert (expected.happens, expected.seconds, expected.measured) == (True, 238, True)
    assert "up to 330 s" in expected.reason
    pod["status"]["containerStatuses"][0]["restartCount"] = 1
    assumed = outage(deployment(**NO_SPARE), new, [pod], 60_000_000_000)
    assert (assumed.happens, assumed.measured) == (True, False)
    assert assumed.seconds == ENGINE_START_S + 240


@pytest.mark.parametrize(
    ("live", "new", "reason"),
    [
        (None, deployment(**NO_SPARE), "nothing is deployed under this name yet"),
        (deployment(**NO_SPARE), deployment(**NO_SPARE), "the pods stay as they are"),
        (deployment(serving=0, **NO_SPARE), deployment(image="b", **NO_SPARE), "no pod serves now"),
        (deployment(), deployment(image="b", maxSurge=1, maxUnavailable=0),
         "new pods are ready before old ones end"),
        (deployment(2, serving=2), deployment(2, image="b", **NO_SPARE),
         "1 of 2 pods serve throughout"),
    ],
)  # fmt: skip
def test_rollouts_without_an_outage(live: Object | None, new: Object, reason: str) -> None:
    expected = outage(live, new, [], 1)
    assert (expected.happens, expected.seconds, expected.reason) == (False, 0, reason)


# What changes.

DIFF = """\
diff -u -N /tmp/LIVE-465282222/apps.v1.Deployment.llm.nano /tmp/MERGED-2832035555/apps.v1.Deployment.llm.nano
--- /tmp/LIVE-465282222/apps.v1.Deployment.llm.nano\t2026-11-27 23:14:40.598854421 +0000
+++ /tmp/MERGED-2832035555/apps.v1.Deployment.llm.nano\t2026-11-27 23:14:40.598854421 +0000
@@ -6,7 +6,7 @@
   creationTimestamp: "2026-11-27T23:14:40Z"
-  generation: 1
+  generation: 2
   labels:
@@ -31,7 +31,7 @@
       containers:
-      - image: foo:1
+      - image: foo:2
diff -u -N /tmp/LIVE-1/v1.ConfigMap.llm.nano-check-0123456789 /tmp/MERGED-2/v1.ConfigMap.llm.nano-check-0123456789
--- /tmp/LIVE-1/v1.ConfigMap.llm.nano-check-0123456789\t2026-11-27 23:14:40 +0000
+++ /tmp/MERGED-2/v1.ConfigMap.llm.nano-check-0123456789\t2026-11-27 23:14:40 +0000
@@ -0,0 +1,3 @@
+apiVersion: v1
+kind: ConfigMap
+  uid: 5cb91191-84a0-4704-a58a-47bc0752397b
diff -u -N /tmp/LIVE-1/policy.v1.PodDisruptionBudget.llm.nano /tmp/MERGED-2/policy.v1.PodDisruptionBudget.llm.nano
--- /tmp/LIVE-1/policy.v1.PodDisruptionBudget.llm.nano\t2026-11-27 23:14:40 +0000
+++ /tmp/MERGED-2/policy.v1.PodDisruptionBudget.llm.nano\t2026-11-27 23:14:40 +0000
@@ -6,7 +6,7 @@
-  generation: 1
+  generation: 2
"""  # noqa: E501
"""As kubectl 1.34 prints it; the second and third part are shortened."""


def test_the_diff_is_told_by_object() -> None:
    deployed, created = changes(DIFF)
    assert (deployed.object, deployed.created) == ("Deployment/nano", False)
    assert deployed.lines == ("-      - image: foo:1", "+      - image: foo:2")
    assert (created.object, created.created) == ("ConfigMap/nano-check-0123456789", True)
    assert created.lines == ()
    assert changes("") == ()


# What a pod requests.


def test_a_pod_requests_its_containers_together_or_its_largest_init_container() -> None:
    def container(**limits: str) -> Object:
        return {"resources": {"limits": limits}}

    spec = {
        "containers": [container(cpu="2", memory="4Gi"), container(cpu="500m")],
        "initContainers": [container(cpu="8", memory="1Gi")],
    }
    wanted = requests(spec)
    assert (int(wanted["cpu"]), shown(wanted["memory"])) == (8, "4 GiB")


def test_positions_are_compared_by_the_pod_that_is_least_far() -> None:
    def second_pod(objects: list[Object]) -> None:
        pod = only(objects, "Pod")
        other: Object = {**pod, "metadata": {**pod["metadata"], "uid": "u", "name": "second"}}
        other["status"] = {"phase": "Pending", "conditions": []}
        only(objects, "Deployment")["spec"]["replicas"] = 2
        objects.append(other)

    position = rollout(snapshot("ready", second_pod))
    assert position == Position("scheduled", "1 of 2 ready", ready=1, wanted=2)


def test_logs_are_those_of_the_container() -> None:
    recorded = snapshot("golden")
    assert rollout(replace(recorded, logs={})).stage == "loading"
