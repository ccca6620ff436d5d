"""Each mistake is planted once, in a tree that is right otherwise, and exactly one rule says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy import k8s
from nemotron_deploy.k8s.checks.findings import ERROR, WARNING, Finding
from nemotron_deploy.k8s.checks.table import RULES
from nemotron_deploy.model.spec import Deployment

from .planting import GONE, Place, add, plant, remove
from .releases import release

NAME = "nemotron-3-nano-30b-a3b-h100-int4"
OTHER_DIGEST = "f" * 64

TREES: dict[str, dict[str, Any]] = {
    "job": {},
    "two": {"replicas": 2},
    "autoscaled": {"autoscale": "2:4"},
}
"""Trees with mistakes planted in them, and the options that make them."""


@pytest.fixture(scope="session")
def clean_trees(
    tmp_path_factory: pytest.TempPathFactory, deployments: dict[str, Deployment]
) -> dict[str, Path]:
    made = {}
    for name, options in TREES.items():
        made[name] = tmp_path_factory.mktemp(name) / "k8s"
        made[name].mkdir()
        k8s.emit(made[name], release(deployments["h100-int4"], **options))
    return made


@pytest.fixture
def tree_of(
    clean_trees: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """A copy of what is applied by default, on a machine without kubectl: there is less to read."""
    monkeypatch.setenv("PATH", "")
    others = shutil.ignore_patterns("rendered", "overlays", "components")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(clean_trees[name], tmp_path / "k8s", ignore=others))

    return copy


def findings(tree: Path) -> list[Finding]:
    return list(k8s.check_directory(tree).findings)


Mistake = tuple[str, str, object]
"""The rule that is meant, the path of a field, and its value."""

PUBLIC = {"port": 8002, "targetPort": "metrics"}
EVERYWHERE = {"ipBlock": {"cidr": "0.0.0.0/0"}}
PRODUCT = "terms 0 matchExpressions nvidia.com/gpu.product values"
H100 = f"{PRODUCT} NVIDIA-H100-80GB-HBM3"
SLICE = "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"
NO_FLAG = "--log-info=true"
"""Instead of a flag that a rule wants; says nothing that a rule reads."""

FIELDS: dict[str, Mistake] = {
    # Placement.
    "half a GPU": ("gpu-request", "server resources limits nvidia.com/gpu", "500m"),
    "GPU request below limit": ("gpu-request", "server resources requests nvidia.com/gpu", "0"),
    "GPU without a limit": ("gpu-request", "server resources limits nvidia.com/gpu", GONE),
    "no toleration": ("gpu-toleration", "pod tolerations", []),
    "any GPU": ("gpu-unplaced", "pod affinity", GONE),
    "an alternative without a GPU": ("gpu-unplaced", "terms +", {"matchExpressions": []}),
    "product label misspelt": ("gpu-unknown", H100, "NVIDIA-H100-80GB-HMB3"),
    "accelerator misspelt": (
        "gpu-unknown",
        "terms 1 matchExpressions cloud.google.com/gke-accelerator values 0",
        "nvidia-h100-80g",
    ),
    "product label of another GPU": ("gpu-other", H100, "NVIDIA-A100-SXM4-80GB"),
    "product label of a GPU that is not in the catalogue": ("gpu-other", H100, "NVIDIA-H200-NVL"),
    "machines of another GPU": (
        "gpu-other",
        "terms 4 matchExpressions node.kubernetes.io/instance-type values 0",
        "p4d.24xlarge",
    ),
    "product label of a MIG slice": ("gpu-slice", H100, SLICE),
    "product label of a shared GPU": ("gpu-slice", H100, "NVIDIA-H100-80GB-HBM3-SHARED"),
    "shared GPUs": ("gpu-whole", "terms 0 matchExpressions nvidia.com/gpu.sharing-strategy", GONE),
    "slices where instance types tell the GPU": (
        "gpu-whole",
        "terms 4 matchExpressions nvidia.com/gpu.product",
        GONE,
    ),
    # Resources.
    "no memory limit": ("resources-set", "check resources limits memory", GONE),
    "no request": ("resources-set", "openai resources requests cpu", GONE),
    "request above limit": ("request-above-limit", "server resources requests cpu", "17"),
    "no /dev/shm": ("shared-memory-missing", "server volumeMounts /dev/shm", GONE),
    "/dev/shm on disk": ("shared-memory-missing", "pod volumes shm emptyDir medium", ""),
    "/dev/shm without limit": ("shared-memory-missing", "pod volumes shm emptyDir sizeLimit", GONE),
    "shm too small": ("shared-memory-small", "pod volumes shm emptyDir sizeLimit", "64Mi"),
    "memory limit below weights and shm": (
        "memory-below-need",
        "server resources limits memory",
        "21Gi",
    ),
    "/dev/shm above memory": ("memory-below-need", "pod volumes shm emptyDir sizeLimit", "1Pi"),
    "claim smaller than the bundle": ("claim-small", "claim resources requests storage", "19e9"),
    "claim for one bundle": ("claim-room", "claim resources requests storage", "20G"),
    "size of the bundle not recorded": (
        "bundle-size",
        "metadata annotations nemo-deploy/bundle-bytes",
        GONE,
    ),
    # Probes.
    "start-up budget below load time": (
        "startup-budget",
        "server startupProbe failureThreshold",
        60,
    ),
    "no start-up probe": ("startup-budget", "openai startupProbe", GONE),
    "impatient rollout": ("progress-deadline", "deployment progressDeadlineSeconds", 1200),
    "no readiness probe": ("readiness-missing", "server readinessProbe", GONE),
    "no liveness probe": ("liveness-missing", "openai livenessProbe", GONE),
    "liveness equal to readiness": (
        "liveness-equal",
        "server livenessProbe httpGet",
        {"path": "/ready", "port": "health"},
    ),
    "liveness of 1 s x 1": (
        "liveness-hasty",
        "server livenessProbe",
        {"httpGet": {"path": "/live", "port": "health"}, "periodSeconds": 1, "failureThreshold": 1},
    ),
    "probe port that names nothing": ("probe-port", "server readinessProbe httpGet port", "helth"),
    "probe port that is not declared": (
        "probe-port-undeclared",
        "server livenessProbe httpGet port",
        8004,
    ),
    # Draining.
    "grace shorter than drain": ("grace-short", "pod terminationGracePeriodSeconds", 30),
    "no exit timeout": ("exit-timeout-missing", "server args --exit-timeout-secs", NO_FLAG),
    "no preStop": ("pre-stop-missing", "server lifecycle", GONE),
    "old channels": (
        "connection-age",
        "server args --grpc-max-connection-age",
        "--grpc-max-connection-age=14500",
    ),
    "channel grace": (
        "connection-age-grace",
        "server args +",
        "--grpc-max-connection-age-grace=6000",
    ),
    # Serving.
    "bundle mounted writable": ("bundle-writable", "server volumeMounts /bundle readOnly", False),
    "bundle mounted writable for the endpoint": (
        "bundle-writable",
        "openai volumeMounts /bundle readOnly",
        GONE,
    ),
    "model control not none": (
        "model-control",
        "server args --model-control-mode",
        "--model-control-mode=explicit",
    ),
    "completed configurations": (
        "complete-configuration",
        "server args --disable-auto-complete-config",
        NO_FLAG,
    ),
    "unbounded responses": (
        "response-pool",
        "server args --grpc-max-response-pool-size",
        NO_FLAG,
    ),
    "online": ("online", "server env HF_HUB_OFFLINE value", "0"),
    "HOME on the read-only root": ("home-read-only", "server env HOME value", "/root"),
    "cache on a read-only mount": (
        "home-read-only",
        "server env XDG_CACHE_HOME value",
        "/bundle/x",
    ),
    "HOME not set": ("home-missing", "server env HOME", GONE),
    "endpoint of another version": ("openai-endpoint", "openai image", "registry/triton:1"),
    "endpoint of another pod": ("openai-endpoint", "openai args --grpc", "--grpc=triton:8001"),
    "endpoint without preStop": ("openai-endpoint", "openai lifecycle", GONE),
    "endpoint that ends early": ("openai-endpoint", "openai args --grace", "--grace=5"),
    "keys in the image": ("api-keys", "openai args --api-keys", "--api-keys=/bundle/keys"),
    "keys that never change": ("api-keys", "openai volumeMounts api-keys subPath", "keys"),
    # The bundle.
    "no digest": ("digest-missing", "template annotations nemo-deploy/bundle", "int4"),
    "folder of another bundle": (
        "digest-differs",
        "openai volumeMounts /bundle subPath",
        OTHER_DIGEST,
    ),
    "another bundle awaited": ("digest-differs", "check args --digest", f"--digest={OTHER_DIGEST}"),
    "another bundle filled": ("digest-differs", "job metadata name", f"{NAME}-fill-ffffffffff"),
    # Security.
    "privileged": ("privileged", "server securityContext privileged", True),
    "privileges gained": (
        "privilege-escalation",
        "openai securityContext allowPrivilegeEscalation",
        GONE,
    ),
    "writable root": ("writable-root", "check securityContext readOnlyRootFilesystem", GONE),
    "capabilities": ("capabilities", "check securityContext capabilities", GONE),
    "capability added": ("capabilities", "server securityContext capabilities add", ["SYS_ADMIN"]),
    "root": ("root-user", "server securityContext runAsUser", 0),
    "perhaps root": ("root-user", "server securityContext runAsNonRoot", False),
    "system calls": ("seccomp", "pod securityContext seccompProfile", {"type": "Unconfined"}),
    "host network": ("host-namespaces", "pod hostNetwork", True),
    "host path": ("host-path", "pod volumes +", {"name": "h", "hostPath": {"path": "/"}}),
    "network disk": (
        "volume-type",
        "pod volumes +",
        {"name": "n", "nfs": {"server": "10.0.0.5", "path": "/"}},
    ),
    "hostPort": ("host-port", "server ports grpc hostPort", 8001),
    "unmasked /proc": ("proc-mount", "server securityContext procMount", "Unmasked"),
    "sysctl": ("sysctls", "pod securityContext sysctls", [{"name": "vm.overcommit", "value": "1"}]),
    "token": ("api-token", "pod automountServiceAccountToken", True),
    "default account": ("default-account", "pod serviceAccountName", GONE),
    "token in plain environment": (
        "plain-secret",
        "server env +",
        {"name": "HF_TOKEN", "value": "abc123"},
    ),
    "token in an argument": ("plain-secret", "server args +", "--hf-token=hf_" + "a" * 30),
    # Network.
    "selector that matches nothing": (
        "service-selector",
        "service selector app.kubernetes.io/instance",
        "other",
    ),
    "budget of another": (
        "selects-nothing",
        "budget selector matchLabels app.kubernetes.io/instance",
        "other",
    ),
    "workload that selects others": (
        "selector-mismatch",
        "deployment selector matchLabels app.kubernetes.io/instance",
        "other",
    ),
    "policy of every pod": ("selects-all", "policy podSelector", {}),
    "Service port that names nothing": ("service-port", "service ports grpc targetPort", "gprc"),
    "public metrics": ("service-private", "service ports +", PUBLIC),
    "load balancer": ("service-exposed", "service type", "LoadBalancer"),
    "policy open to all": ("policy-open", "policy ingress 0 from", GONE),
    "policy open to every address": ("policy-open", "policy ingress 0 from +", EVERYWHERE),
    "policy open to every namespace": (
        "policy-open",
        "policy ingress 0 from +",
        {"namespaceSelector": {}},
    ),
    "policy without a restriction": ("policy-open", "policy ingress +", {}),
    "open egress": ("egress-open", "policy egress", [{}]),
    "egress to every address": ("egress-open", "policy egress", [{"to": [EVERYWHERE]}]),
    "policy port that names nothing": ("policy-port", "policy ingress 0 ports 0 port", "gprc"),
    # Availability.
    "surge": ("surge", "deployment strategy rollingUpdate maxSurge", "25%"),
    "default strategy": ("surge", "deployment strategy", GONE),
    "a rollout that cannot begin": ("surge", "deployment strategy rollingUpdate maxUnavailable", 0),
    "two replicas on ReadWriteOnce": ("single-writer", "deployment replicas", 2),
    "PDB that blocks every drain": ("budget-blocks", "budget maxUnavailable", 0),
    "PDB that keeps everything": (
        "budget-blocks",
        "budget minAvailable",
        "100%",
    ),
    "PDB that keeps what is not ready": (
        "budget-unhealthy",
        "budget unhealthyPodEvictionPolicy",
        GONE,
    ),
    # References.
    "mount without volume": ("volume-missing", "server volumeMounts /cache name", "cach"),
    "claim not in the tree": (
        "claim-missing",
        "pod volumes bundle persistentVolumeClaim claimName",
        "other",
    ),
    "ConfigMap not in the tree": (
        "config-map-missing",
        "pod volumes check-bundle configMap name",
        "other",
    ),
    "ServiceAccount not in the tree": ("account-missing", "pod serviceAccountName", "other"),
    "duplicate environment variable": (
        "duplicate-variable",
        "server env +",
        {"name": "HOME", "value": "/cache/home"},
    ),
    "tag latest": ("image-version", "check image", "localhost:5000/x:latest"),
    "no tag and no digest": ("image-version", "check image", "localhost:5000/x"),
    "label that is none": ("label-value", "template labels x", "not a label"),
    # Form.
    "not a quantity": ("malformed", "server resources limits memory", "much"),
    "unknown field": ("schema", "server imagePullPolice", "Never"),
}  # fmt: skip


ALSO: dict[str, list[tuple[str, object]]] = {
    "memory limit below weights and shm": [("server resources requests memory", "21Gi")],
    "GPU without a limit": [("server resources requests nvidia.com/gpu", "1")],
}
"""What else must change, for one mistake only to be left."""


@pytest.mark.parametrize("case", FIELDS)
def test_a_mistake_is_found_in_its_file_object_and_field(
    tree_of: Callable[[str], Path], case: str
) -> None:
    rule, path, value = FIELDS[case]
    tree = tree_of("job")
    place = plant(tree, path, value)
    for other, other_value in ALSO.get(case, ()):
        plant(tree, other, other_value)
    found = findings(tree)
    assert [finding.rule for finding in found] == [rule], [*map(str, found)]
    assert (found[0].severity is WARNING) == (rule == "claim-room")
    expected = ELSEWHERE_FOUND.get(case, place)
    assert (found[0].file, found[0].object) == (expected.file, expected.object)
    assert is_around(found[0].field, expected.field)
    assert found[0].reason
    assert found[0].mend


def is_around(field: str, other: str) -> bool:
    """Whether two paths are of the same field, or of one and a part of it."""
    return field.startswith(other) or other.startswith(field)


ELSEWHERE_FOUND = {
    "/dev/shm above memory": Place(
        "deployment.yaml",
        f"Deployment/{NAME}",
        "spec.template.spec.containers[0].resources.limits.memory",
    ),
    "two replicas on ReadWriteOnce": Place(
        "fill/persistentvolumeclaim.yaml",
        f"PersistentVolumeClaim/{NAME}",
        "spec.accessModes",
    ),
}
"""Mistakes that concern another object than the one they were planted in."""


def scaler(**changes: Any) -> dict[str, Any]:
    """A HorizontalPodAutoscaler for the Deployment."""
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
        "minReplicas": 1,
        "maxReplicas": 2,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Value"}}}],
        **changes,
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": NAME},
        "spec": spec,
    }


DEPLOYMENT = ("deployment.yaml", f"Deployment/{NAME}")
SCALER = ("hpa.yaml", f"HorizontalPodAutoscaler/{NAME}")


def no_gpu(tree: Path) -> None:
    for kind in ("requests", "limits"):
        plant(tree, f"server resources {kind} nvidia.com/gpu", GONE)


def other_target(tree: Path) -> None:
    plant(tree, "deployment replicas", GONE)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"}
    add(tree, "hpa.yaml", scaler(scaleTargetRef=target))


def without_replicas(tree: Path, **changes: Any) -> None:
    plant(tree, "deployment replicas", GONE)
    add(tree, "hpa.yaml", scaler(**changes))


def with_secret(tree: Path) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}}
    add(tree, "secret.yaml", {**secret, "data": {"keys": "c2s="}})


def with_surge(tree: Path) -> None:
    plant(tree, "deployment strategy rollingUpdate", {"maxSurge": 1, "maxUnavailable": 0})


OBJECTS: dict[str, tuple[str, str, Callable[[Path], object], tuple[str, str], str]] = {
    "no GPU": (
        "gpu-missing",
        "job",
        no_gpu,
        DEPLOYMENT,
        "spec.template.spec.containers[0].resources.limits['nvidia.com/gpu']",
    ),
    "no NetworkPolicy": (
        "policy-missing",
        "job",
        lambda tree: remove(tree, "networkpolicy.yaml"),
        DEPLOYMENT,
        "metadata.name",
    ),
    "no PDB": (
        "budget-missing",
        "job",
        lambda tree: remove(tree, "poddisruptionbudget.yaml"),
        DEPLOYMENT,
        "metadata.name",
    ),
    "two replicas without spreading": (
        "spreading-missing",
        "two",
        lambda tree: plant(tree, "pod topologySpreadConstraints", GONE),
        DEPLOYMENT,
        "spec.template.spec.topologySpreadConstraints",
    ),
    "replicas spread by other labels": (
        "spreading-missing",
        "two",
        lambda tree: plant(
            tree, "pod topologySpreadConstraints 0 labelSelector", {"matchLabels": {"a": "b"}}
        ),
        DEPLOYMENT,
        "spec.template.spec.topologySpreadConstraints",
    ),
    "surge on ReadWriteOnce": (
        "single-writer",
        "job",
        with_surge,
        ("fill/persistentvolumeclaim.yaml", f"PersistentVolumeClaim/{NAME}"),
        "spec.accessModes",
    ),
    "HPA beside fixed replicas": (
        "scaled-replicas",
        "two",
        lambda tree: add(tree, "hpa.yaml", scaler()),
        DEPLOYMENT,
        "spec.replicas",
    ),
    "ScaledObject beside fixed replicas": (
        "scaled-replicas",
        "autoscaled",
        lambda tree: plant(tree, "deployment replicas", 2),
        DEPLOYMENT,
        "spec.replicas",
    ),
    "HPA without target": (
        "scale-target-missing",
        "two",
        other_target,
        SCALER,
        "spec.scaleTargetRef",
    ),
    "HPA without a metric": (
        "scale-metric-missing",
        "two",
        lambda tree: without_replicas(tree, metrics=[]),
        SCALER,
        "spec.metrics",
    ),
    "HPA without room": (
        "scale-range",
        "two",
        lambda tree: without_replicas(tree, minReplicas=3),
        SCALER,
        "spec.maxReplicas",
    ),
    "secrets in the tree": (
        "secret-object",
        "job",
        with_secret,
        ("secret.yaml", "Secret/keys"),
        "data",
    ),
    "claim that nobody adds": (
        "claim-missing",
        "job",
        lambda tree: remove(tree, "fill/persistentvolumeclaim.yaml"),
        DEPLOYMENT,
        "spec.template.spec.volumes[4].persistentVolumeClaim.claimName",
    ),
    "ConfigMap that nobody adds": (
        "config-map-missing",
        "job",
        lambda tree: remove(tree, "configmap.yaml"),
        DEPLOYMENT,
        "spec.template.spec.volumes[5].configMap.name",
    ),
    "ServiceAccount that nobody adds": (
        "account-missing",
        "job",
        lambda tree: remove(tree, "serviceaccount.yaml"),
        DEPLOYMENT,
        "spec.template.spec.serviceAccountName",
    ),
}
"""Mistakes of several objects: the rule that is meant, the tree, what is done to it, and where the
rule must find it."""


@pytest.mark.parametrize("case", OBJECTS)
def test_a_mistake_of_several_objects_is_found(tree_of: Callable[[str], Path], case: str) -> None:
    rule, name, spoil, where, field = OBJECTS[case]
    tree = tree_of(name)
    spoil(tree)
    found = findings(tree)
    assert {finding.rule for finding in found} == {rule}, [*map(str, found)]
    assert {finding.severity for finding in found} == {ERROR}
    assert (*where, field) in {(f.file, f.object, f.field) for f in found}


@pytest.mark.parametrize("name", TREES)
def test_a_clean_tree_gives_no_finding(clean_trees: dict[str, Path], name: str) -> None:
    report = k8s.check_directory(clean_trees[name])
    assert report.findings == ()
    assert report.notes == ()
    assert report.objects > 20


def test_a_job_that_builds_for_an_engine_is_no_server(tree_of: Callable[[str], Path]) -> None:
    tree = tree_of("job")
    for word in ("--engine", "tensorrt-llm", "--quant", "int4"):
        plant(tree, "job spec template spec containers fill args +", word)
    assert findings(tree) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("terms 2 matchExpressions karpenter.k8s.aws/instance-gpu-memory", GONE),
        ("terms 3 matchExpressions eks.amazonaws.com/instance-gpu-memory values 0", "40960"),
    ],
)
def test_a_name_of_several_gpus_needs_their_memory(
    deployments: dict[str, Deployment], tmp_path: Path, path: str, value: object
) -> None:
    """Karpenter calls A100s of 40 and of 80 GB alike."""
    k8s.emit(tmp_path, release(deployments["a100-bf16"]))
    place = plant(tmp_path, path, value)
    (finding,) = [f for f in findings(tmp_path) if f.file == place.file]
    assert (finding.rule, finding.severity) == ("gpu-other", ERROR)
    assert is_around(finding.field, place.field)
    assert "A100 40GB" in finding.reason


KNOWN_MISTAKES = (
    "bundle mounted writable", "model control not none", "selector that matches nothing",
    "tag latest", "no tag and no digest", "grace shorter than drain",
    "start-up budget below load time", "no readiness probe", "liveness equal to readiness",
    "liveness of 1 s x 1", "probe port that names nothing", "policy port that names nothing",
    "no NetworkPolicy", "policy open to all", "duplicate environment variable", "privileged",
    "hostPort", "HPA beside fixed replicas", "HPA without target",
    "two replicas without spreading", "two replicas on ReadWriteOnce", "no PDB",
    "PDB that blocks every drain", "claim not in the tree", "ConfigMap not in the tree",
    "ServiceAccount not in the tree", "mount without volume", "token in plain environment",
    "memory limit below weights and shm", "claim smaller than the bundle", "shm too small",
    "product label misspelt", "product label of another GPU", "product label of a MIG slice",
    "HOME on the read-only root",
)  # fmt: skip
"""Mistakes that a reviewer planted in these manifests, and that earlier rules missed."""


def test_known_mistakes_are_among_the_planted() -> None:
    assert {*KNOWN_MISTAKES} <= FIELDS.keys() | OBJECTS.keys()


def test_every_rule_is_planted() -> None:
    """None of the rules for what we write is without a test."""
    names = {rule.name for table in RULES.values() for rule in table if rule.ours}
    planted = {rule for rule, _, _ in FIELDS.values()} | {row[0] for row in OBJECTS.values()}
    assert names <= planted
