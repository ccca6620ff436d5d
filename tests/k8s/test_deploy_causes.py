"""Why a rollout stalls, from recorded API objects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemotron_deploy.k8s.deploy.admission import diagnose
from nemotron_deploy.k8s.deploy.causes import causes
from nemotron_deploy.k8s.deploy.containers import last_words
from nemotron_deploy.k8s.deploy.diagnosis import CAUSES
from nemotron_deploy.k8s.deploy.snapshot import Object
from nemotron_deploy.k8s.deploy.stages import PROGRESS
from nemotron_deploy.tests.docs.pages import ROOT
from nemotron_deploy.tests.k8s.recorded_rollouts import FOLDER, only, snapshot

NO_CAUSE = {"ready", "ready-kwok", "filling", "verifying", "loading", "golden"}

EXPECTED = {
    # No node.
    "other-gpu": ("no-matching-node", False,
        "the nearest of 7 nodes, h200-0, has nvidia.com/gpu.product=NVIDIA-H200; the pod requires "
        "NVIDIA-B200; add a node with the GPU that the bundle is for"),
    "misspelt": ("no-matching-node", False,
        "h100-sxm-0, has nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3; the pod requires "
        "NVIDIA-H100-80GB;"),
    "shared": ("no-matching-node", False,
        "has nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3-SHARED; the pod requires "
        "NVIDIA-H100-80GB-HBM3 or NVIDIA-H100-PCIe, the nearest is NVIDIA-H100-80GB-HBM3; turn "
        "off sharing and slicing"),
    "time-slicing": ("no-matching-node", False,
        "has the label nvidia.com/gpu.sharing-strategy=time-slicing, which the pod excludes; use "
        "whole GPUs"),
    "unlabelled": ("no-matching-node", False,
        "lacks the label nvidia.com/gpu.product (required: NVIDIA-H100-80GB-HBM3 or "
        "NVIDIA-H100-PCIe); install GPU feature discovery, or label the nodes that have this GPU: "
        "kubectl --namespace llm label node NODE nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3"),
    "untolerated": ("taint", False,
        "h100-sxm-0, has the taint nvidia.com/gpu=present:NoSchedule, which the pod does not "
        "tolerate"),
    "too-many": ("no-resource", False,
        "h100-sxm-0, offers 8 nvidia.com/gpu, the pod requests 16; "),
    "mig-mixed": ("no-resource", False,
        "h100-sxm-0, offers no nvidia.com/gpu, the pod requests 1 (it offers 7 "
        "nvidia.com/mig-1g.10gb)"),
    "cordoned": ("node-unavailable", True,
        "h100-sxm-0, is cordoned; allow pods on it: kubectl --namespace llm uncordon h100-sxm-0"),
    "busy": ("no-free-node", True,
        "h100-sxm-0, has 0 of 8 nvidia.com/gpu free, the pod requests 1; wait"),
    # No pod.
    "quota-never": ("quota", False,
        "quota gpus is exceeded: requested requests.nvidia.com/gpu=1, used "
        "requests.nvidia.com/gpu=0, limit requests.nvidia.com/gpu=0"),
    "quota-used": ("quota", True, "requested pods=1, used pods=1, limit pods=1; free what it"),
    "quota-missing": ("quota", False, "failed quota: gpus: must specify limits.memory"),
    "pod-security": ("pod-security", False,
        "Pod Security level restricted:latest refuses the pod: allowPrivilegeEscalation != false"),
    "runtime-class-missing": ("runtime-class", False,
        "the cluster has no RuntimeClass nvidia-x; install the GPU operator"),
    "paused": ("paused", False,
        "deployment nano is paused; resume it: kubectl --namespace llm rollout resume "
        "deployment/nano"),
    # Volumes.
    "no-storage-class": ("no-storage-class", False,
        "claim nano: names no storage class, and the cluster has no default one; it has fast-ssd; "
        "build again with --storage-class NAME, delete the claim (kubectl --namespace llm delete "
        "pvc nano)"),
    "storage-class-misspelt": ("no-storage-class", False,
        "the cluster has no storage class fast-sdd; did you mean fast-ssd?"),
    "mount-secret": ("volume-mount", True, 'secret "api-keys" not found; create the object'),
    "job-full": ("claim-full", False, "no space is left on"),
    # Containers.
    "image-unreachable": ("image", True,
        "the image registry.invalid/tritonserver:26.07 is not pulled"),
    "image-localhost": ("image", True,
        "push the image to a registry and build again with --registry"),
    "image-never": ("image", False, "is not present with pull policy of Never"),
    "image-invalid": ("image", False, "repository name must be lowercase"),
    "config-secret": ("container-config", True, 'is not created: secret "hf-token" not found'),
    "runtime-class-handler": ("runtime-class", False,
        "the node has no container runtime nvidia, which the pod's RuntimeClass names"),
    "crash-check-bundle": ("crash", False,
        "check-bundle ended with exit code 1: the claim holds the bundle bbbb (fp8), this pod "
        "needs aaaa (int4)"),
    "crash-server": ("crash", False,
        "failed to load 'nano' version 1: Internal: StartError: golden outputs differ"),
    "crash-driver": ("runtime-class", False,
        "does not see the GPU's driver: ImportError: libcuda.so.1: cannot open shared object "
        "file: No such file or directory; build again with --runtime-class nvidia"),
    "oom": ("memory", False, "because it exceeded its memory limit of 32Mi"),
    "startup-probe": ("probe", False,
        "was ended because its probe failed: Container triton failed startup probe"),
    "readiness-probe": ("probe", True, "triton is not ready: Readiness probe failed: Get"),
    # Controllers.
    "job-failed": ("job-failed", False,
        "has failed (BackoffLimitExceeded: Job has reached the specified backoff limit); pod "),
    "evicted": ("evicted", True, 'Usage of EmptyDir volume "s" exceeds the limit "1Mi"'),
    "two-budgets": ("disruption-budget", True,
        "the disruption budgets nano and team-wide select the same pods"),
    "late": ("deadline", True, "has timed out progressing"),
}  # fmt: skip
"""Of each recording the first cause, whether waiting may heal it, and what the message says."""


def test_every_recording_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == NO_CAUSE | EXPECTED.keys()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_stall_has_its_cause(name: str) -> None:
    cause, heals, text = EXPECTED[name]
    first = causes(snapshot(name))[0]
    assert (first.cause, first.heals) == (cause, heals)
    assert text in str(first)


@pytest.mark.parametrize("name", sorted(NO_CAUSE))
def test_what_goes_on_has_no_cause(name: str) -> None:
    assert causes(snapshot(name)) == ()


def test_a_failed_job_quotes_its_last_words() -> None:
    (first,) = causes(snapshot("job-failed"))
    assert "ended with exit code 4: error: nvidia/x: the hub answers 401" in first.message
    assert "kubectl --namespace llm delete job nano-fill-aaaaaaaaaa" in first.action


def test_a_crash_may_heal_at_first() -> None:
    def first_crash(objects: list[Object]) -> None:
        for status in only(objects, "Pod")["status"]["containerStatuses"]:
            status["restartCount"] = 1

    (crash,) = causes(snapshot("crash-server", first_crash))
    assert (crash.cause, crash.heals) == ("crash", True)


def test_a_start_up_probe_that_failed_before_it_passed_is_no_cause() -> None:
    def just_started(objects: list[Object]) -> None:
        for event in objects:
            if event.get("reason") == "Unhealthy":
                event["message"] = "Startup probe failed: HTTP probe failed with statuscode: 503"

    assert causes(snapshot("readiness-probe", just_started)) == ()


def test_a_node_that_is_being_added_heals_a_pending_pod() -> None:
    """Events in the form in which the cluster autoscaler's source writes them."""

    def event(reason: str, message: str) -> list[Object]:
        recorded = snapshot("other-gpu")
        (pod,) = recorded.new_pods
        about = {"kind": "Pod", "uid": pod["metadata"]["uid"]}
        metadata = {"name": "e", "creationTimestamp": "2026-11-27T23:00:00Z"}
        return [
            *recorded.objects,
            {"kind": "Event", "metadata": metadata, "involvedObject": about, "reason": reason,
             "message": message},
        ]  # fmt: skip

    recorded = snapshot("other-gpu")
    growing = event("TriggeredScaleUp", "pod triggered scale-up: [{pool 0->1 (max: 4)}]")
    (first,) = causes(replace(recorded, objects=tuple(growing)))
    assert first.heals
    assert "a node is being added: pod triggered scale-up" in first.message
    blocked = event("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size")
    (first,) = causes(replace(recorded, objects=tuple(blocked)))
    assert not first.heals
    assert "the cluster autoscaler adds none" in first.message


def test_without_the_right_to_list_nodes_the_scheduler_is_quoted() -> None:
    recorded = snapshot("other-gpu")
    objects = tuple(item for item in recorded.objects if item["kind"] != "Node")
    (first,) = causes(replace(recorded, objects=objects, unreadable=frozenset({"Node"})))
    assert (first.cause, first.heals) == ("unschedulable", True)
    assert "node(s) didn't match Pod's node affinity/selector" in first.message
    assert "your rights do not show the nodes" in first.action


def test_an_old_pod_that_ends_its_requests_is_waited_for() -> None:
    """The same Deployment's old pod, which is ending, holds the only GPU that fits."""

    def ending(objects: list[Object]) -> None:
        deployment = only(objects, "Deployment")
        old_set = {
            "kind": "ReplicaSet",
            "metadata": {
                "name": "nano-old", "uid": "old-set",
                "ownerReferences": [{"uid": deployment["metadata"]["uid"]}],
            },
        }  # fmt: skip
        holder = next(
            o for o in objects if o["kind"] == "Pod" and o["metadata"]["namespace"] == "busy-other"
        )
        holder["metadata"] |= {
            "deletionTimestamp": "2026-11-27T23:00:00Z",
            "ownerReferences": [{"uid": "old-set"}],
        }
        objects.append(old_set)

    (first,) = causes(snapshot("busy", ending))
    assert (first.cause, first.heals) == ("draining", True)
    assert "has ended its requests" in first.message


def test_another_bundle_in_the_deployment_is_another_rollout() -> None:
    def other(objects: list[Object]) -> None:
        template = only(objects, "Deployment")["spec"]["template"]
        template["metadata"]["annotations"]["nemo-deploy/bundle"] = "b" * 64

    first = causes(snapshot("loading", other))[0]
    assert (first.cause, first.heals) == ("superseded", False)
    assert "it now has the bundle bbbbbbbbbb, no longer aaaaaaaaaa" in first.message


def test_an_empty_claim_without_a_job_waits_for_a_push() -> None:
    recorded = snapshot("verifying")
    (log,) = recorded.logs
    waiting = replace(recorded, logs={log: f'{PROGRESS}{{"step": "waiting"}}'})
    (first,) = causes(waiting)
    assert (first.cause, first.heals) == ("bundle-missing", True)
    assert first.action == "copy it there: nemo-deploy push dist/nano"


def test_a_volume_in_another_zone() -> None:
    def zone(objects: list[Object]) -> None:
        for pod in (item for item in objects if item["kind"] == "Pod"):
            for row in pod["status"]["conditions"]:
                row["message"] = (
                    "0/7 nodes are available: 7 node(s) had volume node affinity conflict."
                )

    first = causes(snapshot("other-gpu", zone))[0]
    assert (first.cause, first.heals) == ("volume-zone", False)


def test_a_volume_that_another_node_uses() -> None:
    def attached(objects: list[Object]) -> None:
        for event in (item for item in objects if item.get("reason") == "FailedMount"):
            event["reason"] = "FailedAttachVolume"
            event["message"] = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod'

    (first,) = causes(snapshot("mount-secret", attached))
    assert first.cause == "volume-mount"
    assert "wait until the pod on the other node has ended" in first.action


def test_a_claim_that_is_not_provisioned_quotes_its_event() -> None:
    def failing(objects: list[Object]) -> None:
        claim = only(objects, "PersistentVolumeClaim")
        claim["spec"]["storageClassName"] = "fast-ssd"
        for event in objects:
            if event.get("involvedObject", {}).get("uid") == claim["metadata"]["uid"]:
                event |= {"type": "Warning", "reason": "ProvisioningFailed",
                          "message": "quota PersistentDisksTotalGB exceeded"}  # fmt: skip

    (first,) = causes(snapshot("storage-class-misspelt", failing))
    assert (first.cause, first.heals) == ("claim-unbound", True)
    assert first.message == (
        "claim nano (1Gi, ReadWriteOnce): quota PersistentDisksTotalGB exceeded (storage class "
        "fast-ssd)"
    )


@pytest.mark.parametrize(
    ("message", "cause", "text"),
    [
        (
            'pods "nano-1" is forbidden: unable to validate against any security context '
            "constraint: [provider restricted-v2: .spec.securityContext.fsGroup: Invalid value]",
            "pod-security",
            "build again with --platform openshift",
        ),
        (
            'admission webhook "validate.kyverno.svc-fail" denied the request: team label missing',
            "admission",
            "the API server refuses the pod: admission webhook",
        ),
        (
            'pods "nano-1" is forbidden: maximum memory usage per Container is 1Gi, but limit is '
            "90Gi",
            "admission",
            "refuses the pod: maximum memory usage per Container is 1Gi",
        ),
    ],
)
def test_refusals_in_the_form_that_other_admission_writes(
    message: str, cause: str, text: str
) -> None:
    diagnosis = diagnose(message)
    assert (diagnosis.cause, diagnosis.heals) == (cause, False)
    assert text in str(diagnosis)


def test_last_words_do_not_control_the_terminal() -> None:
    def coloured(objects: list[Object]) -> None:
        for status in only(objects, "Pod")["status"]["containerStatuses"]:
            for state in (status["state"], status["lastState"]):
                for row in state.values():
                    row["message"] = "\x1b[31mError:\x1b[0m \x07no \x9b2Jweights"

    (crash,) = causes(snapshot("crash-driver", coloured))
    assert ": Error: no 2Jweights (" in crash.message


def test_last_words_are_one_bounded_line() -> None:
    assert last_words("") == ""
    assert last_words("a\nb\n\n") == "b"
    assert last_words("Error: x\nbye\n") == "Error: x"
    assert len(last_words("x" * 5000)) < 500


def test_every_cause_is_tested() -> None:
    text = (ROOT / "tests" / "k8s" / "test_deploy_causes.py").read_text(encoding="utf-8")
    missing = [cause for cause in CAUSES if f'"{cause}"' not in text]
    assert not missing
