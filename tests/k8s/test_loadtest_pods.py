"""The pods of a load test: their objects, and how far they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemotron_deploy.k8s.checks.apply import judge
from nemotron_deploy.k8s.checks.object_set import KubeObject
from nemotron_deploy.k8s.deploy.causes import causes
from nemotron_deploy.k8s.deploy.diagnosis import Diagnosis
from nemotron_deploy.k8s.deploy.snapshot import Object, Snapshot, Target
from nemotron_deploy.k8s.loadtest.objects import job, policy
from nemotron_deploy.k8s.loadtest.stages import STARTING, starting
from nemotron_deploy.k8s.yaml_text import dump

GOLDEN = Path(__file__).parent / "golden" / "loadtest.yaml"
RUN = "0123456789"
IMAGE = "registry.local/nemo-deploy:0.1.0"

Emit = Callable[..., Path]


def tree(folder: Path) -> list[Object]:
    """The objects of a rendered tree."""
    text = (folder / "rendered" / "default.yaml").read_text(encoding="utf-8")
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


def objects(deployed: list[Object], pods: int = 3) -> list[Object]:
    """The Job of a load test as the API server has it, and its policy."""
    (deployment,) = [item for item in deployed if item["kind"] == "Deployment"]
    made = job(deployment, IMAGE, pods, RUN)
    made["metadata"]["uid"] = "5b1f8f4e-0000-4000-8000-000000000000"
    return [made, policy(made)]


def test_the_objects_are_the_golden_ones(emit: Emit) -> None:
    text = dump(*objects(tree(emit())))
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("platform", ["generic", "openshift"])
def test_no_rule_has_a_finding_on_them_beside_the_bundle(emit: Emit, platform: str) -> None:
    deployed = tree(emit({"platform": platform}))
    added = objects(deployed)
    items = [KubeObject("tree.yaml", item) for item in (*deployed, *added)]
    assert judge(items).findings == ()


def test_on_openshift_they_have_no_fixed_user(emit: Emit) -> None:
    (made, _) = objects(tree(emit({"platform": "openshift"})))
    context = made["spec"]["template"]["spec"]["securityContext"]
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_the_key_is_a_file_of_the_servers_secret(emit: Emit) -> None:
    """It is in no word of a command and in no variable, which only names the file."""
    deployed = tree(emit())
    spec = objects(deployed)[0]["spec"]["template"]["spec"]
    (volume,) = [volume for volume in spec["volumes"] if "secret" in volume]
    assert volume["secret"]["secretName"] == "nemotron-3-nano-30b-a3b-h100-int4-api-keys"
    assert volume["secret"]["optional"] is True
    (container,) = spec["containers"]
    (mount,) = [row for row in container["volumeMounts"] if row["name"] == volume["name"]]
    variables = {row["name"]: row["value"] for row in container["env"]}
    assert variables["NEMO_DEPLOY_OPENAI_KEYS"] == f"{mount['mountPath']}/keys"
    for item in deployed:
        if item["kind"] == "Deployment":
            item["spec"]["template"]["spec"]["volumes"] = []
    spec = objects(deployed)[0]["spec"]["template"]["spec"]
    assert [volume["name"] for volume in spec["volumes"]] == ["tmp"]
    assert "NEMO_DEPLOY_OPENAI_KEYS" not in str(spec)


def test_names_fit_whatever_the_bundle_is_called(emit: Emit) -> None:
    made, network = objects(tree(emit(name="n" * 59)))
    assert len(made["metadata"]["name"]) <= 63
    assert made["metadata"]["name"].endswith(f"-load-{RUN}")
    assert network["metadata"]["ownerReferences"][0]["name"] == made["metadata"]["name"]


JOB = "nano-load-0123456789"
UID = {"uid": "job"}


def load_job(**status: Any) -> Object:
    metadata = {"name": JOB, "generation": 1, **UID}
    return {"kind": "Job", "metadata": metadata, "spec": {"parallelism": 2}, "status": status}


def pod(number: int, ready: bool = False, **status: Any) -> Object:
    kinds = {"PodScheduled": True, "Ready": ready}
    rows = [{"type": kind, "status": str(on)} for kind, on in kinds.items()]
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"{JOB}-{number}",
            "uid": f"pod-{number}",
            "ownerReferences": [UID],
            "creationTimestamp": f"2026-11-28T02:00:0{number}Z",
        },
        "spec": {"containers": [{"name": "loadtest"}], "nodeName": "here"},
        "status": {"conditions": rows, **status},
    }


def unplaced(number: int) -> Object:
    placed = pod(number)
    (scheduled, _) = placed["status"]["conditions"]
    scheduled |= {"status": "False", "message": "0/1 nodes are available: 1 Insufficient cpu."}
    return placed


def waiting(number: int) -> Object:
    state = {"waiting": {"reason": "ErrImageNeverPull", "message": "is not present with pull "
                         "policy of Never"}}  # fmt: skip
    row = {"name": "loadtest", "image": IMAGE, "state": state}
    return pod(number, containerStatuses=[row])


def event(reason: str, message: str, about: Object, second: int) -> Object:
    return {
        "kind": "Event",
        "metadata": {"name": f"e{second}"},
        "involvedObject": {"uid": about["metadata"]["uid"]},
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2026-11-28T02:01:{second:02}Z",
    }


def snapshot(*items: Object) -> Snapshot:
    return Snapshot(Target(None, JOB, "", "", "kubectl --namespace llm", keeps_job=False), items)


@pytest.mark.parametrize(
    ("items", "stage", "detail"),
    [
        ((), "load-scheduled", "the Job is being created"),
        ((load_job(),), "load-scheduled", "0 of 2"),
        ((load_job(), pod(1, ready=True), unplaced(2)), "load-scheduled", "1 of 2"),
        ((load_job(), pod(1, ready=True), pod(2)), "load-pulling", "1 of 2 run"),
        ((load_job(), pod(1, ready=True), pod(2, ready=True)), "load-ready", "2 of 2"),
        ((load_job(), pod(1, ready=True), pod(2, phase="Failed")), "load-scheduled", "1 of 2"),
    ],
    ids=["no-job", "no-pods", "unplaced", "pulling", "ready", "failed"],
)
def test_the_stage_is_that_of_the_pod_that_is_least_far(
    items: tuple[Object, ...], stage: str, detail: str
) -> None:
    position = starting(snapshot(*items))
    assert (position.stage, position.detail) == (stage, detail)
    assert position.done == (stage == "load-ready")
    assert position.stage in STARTING


def only_cause(*items: Object) -> Diagnosis:
    (found,) = causes(snapshot(*items))
    return found


def test_an_image_that_is_not_pulled_is_a_cause_also_for_one_pod_of_several() -> None:
    for items in ((pod(1, ready=True), waiting(2)), (waiting(1), pod(2, ready=True))):
        found = only_cause(load_job(), *items)
        assert (found.cause, found.heals) == ("image", False)
        assert IMAGE in found.message


def test_a_quota_that_some_of_the_pods_exceed_is_a_cause() -> None:
    owner, made = load_job(), pod(1, ready=True)
    refused = (
        f'Error creating: pods "{JOB}-x" is forbidden: exceeded quota: small, '
        "requested: pods=1, used: pods=4, limited: pods=4"
    )
    events = (
        event("SuccessfulCreate", f"Created pod: {JOB}-1", owner, 1),
        event("FailedCreate", refused, owner, 2),
    )
    found = only_cause(owner, made, *events)
    assert (found.cause, found.heals) == ("quota", True)
    assert "requested pods=1, used pods=4, limit pods=4" in found.message
    assert causes(snapshot(owner, made, pod(2, ready=True), *events)) == ()


def test_a_job_that_has_failed_is_not_to_be_deleted_by_hand() -> None:
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "x"}
    ended = {"exitCode": 128, "reason": "StartError", "message": 'exec: "python3": not found'}
    row = {"name": "loadtest", "state": {"terminated": ended}}
    found = only_cause(
        load_job(conditions=[failed]), pod(1, phase="Failed", containerStatuses=[row])
    )
    assert (found.cause, found.heals) == ("job-failed", False)
    assert 'exec: "python3": not found' in found.message
    assert found.action == "remove the cause and run this command again"
