from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy import k8s
from nemotron_deploy.core.errors import BadInputError, UsageError
from nemotron_deploy.core.result import MADE_BY
from nemotron_deploy.k8s.features.weights import SCRIPT_SOURCE, WAYS
from nemotron_deploy.k8s.gpu_labels import node_terms
from nemotron_deploy.k8s.images import parse_image
from nemotron_deploy.k8s.options import PLATFORMS, ClusterOptions
from nemotron_deploy.model import catalog
from nemotron_deploy.model.spec import Deployment

from .releases import BUILD, DIGEST, release

GOLDEN = Path(__file__).parent / "golden"
Emit = Callable[..., Path]
Objects = Callable[..., dict[str, Any]]


def files(folder: Path) -> dict[str, str]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in paths}


OPTIONS: dict[str, dict[str, Any]] = {
    "h100-int4": {},
    "a100-bf16": {"weights": "claim", "platform": "openshift", "replicas": 2, "ipv6": True},
    "a100-int4-vllm": {
        "weights": "image",
        "namespace": "llm",
        "registry": "registry.local:5000/ai",
        "runtime_class": "nvidia",
        "autoscale": "1:4",
        "gateway": "infra/public",
        "hostname": "llm.example.com",
    },
}
"""The options of each golden tree."""

SCRIPT = re.compile(r"^( *)check_bundle\.py: \|\n(?:\1 .*\n|\n)+", re.MULTILINE)
"""The script in a ConfigMap; the name of the ConfigMap has its digest."""


def without_script(text: str) -> str:
    return re.sub(
        r"-check-[0-9a-f]{10}", "-check-DIGEST", SCRIPT.sub(r"\1check_bundle.py: TEXT\n", text)
    )


@pytest.mark.parametrize("case", OPTIONS)
def test_tree_is_the_golden_one(
    case: str, deployments: dict[str, Deployment], tmp_path: Path
) -> None:
    k8s.emit(tmp_path, release(deployments[case], **OPTIONS[case]))
    written = {name: without_script(text) for name, text in files(tmp_path).items()}
    if os.environ.get("UPDATE_GOLDEN") == "1":
        shutil.rmtree(GOLDEN / case, ignore_errors=True)
        for name, text in written.items():
            (GOLDEN / case / name).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / case / name).write_text(text, encoding="utf-8")
    assert written == files(GOLDEN / case)


def test_the_script_travels_as_it_is(emit: Emit, objects: Objects) -> None:
    config_map = objects(emit())["ConfigMap"]
    assert config_map["data"] == {"check_bundle.py": SCRIPT_SOURCE.read_text(encoding="utf-8")}


def failed(tree: Path) -> dict[str, str]:
    return {check.name: check.detail for check in k8s.check(tree).checks if not check.ok}


ROOMS: list[dict[str, Any]] = [
    {},
    *({"platform": name} for name in PLATFORMS),
    {"ipv6": True},
    {"dra": True},
]


@pytest.mark.parametrize("way", WAYS)
def test_every_tree_passes_its_checks(emit: Emit, way: str) -> None:
    """Each way with each platform, and with everything that autoscaling and routes add."""
    everything: dict[str, Any] = {
        "autoscale": "2:8",
        "gateway": "web",
        "namespace": "llm",
        "storage_class": "fast",
    }
    for options in (*ROOMS, everything, {**everything, "autoscaler": "hpa"}, {"surge": True}):
        assert not failed(emit({"weights": way, **options})), options


@pytest.mark.parametrize("way", WAYS)
def test_the_bundle_is_named_wherever_it_is_used(emit: Emit, objects: Objects, way: str) -> None:
    rendered = objects(emit({"weights": way}))
    template = rendered["Deployment"]["spec"]["template"]
    assert template["metadata"]["annotations"]["nemo-deploy/bundle"] == DIGEST
    pod = template["spec"]
    [check] = pod["initContainers"]
    assert f"--digest={DIGEST}" in check["args"]
    assert f"--kind={'inputs' if way == 'job' else 'files'}" in check["args"]
    assert "--gpu=h100" in check["args"]
    for container in pod["containers"]:
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        if way == "image":
            assert container["image"].endswith(f"h100-int4:{DIGEST}")
            assert "/bundle" not in mounts
        else:
            assert mounts["/bundle"]["subPath"] == DIGEST
            assert mounts["/bundle"]["readOnly"]
    assert ("Job" in rendered) == (way == "job")
    assert ("PersistentVolumeClaim" in rendered) == (way != "image")
    if way == "job":
        job = rendered["Job"]
        assert job["metadata"]["name"].endswith(f"-fill-{DIGEST[:10]}")
        [fill] = job["spec"]["template"]["spec"]["containers"]
        assert fill["command"] == ["nemo-deploy", "fill", "/claim"]
        digest, version = f"--digest={DIGEST}", f"--made-by={MADE_BY}"
        assert fill["args"] == [digest, "--keep=1", version, "--", *BUILD]
        assert "nvidia.com/gpu" not in str(fill["resources"])


def test_another_bundle_is_a_rollout_and_the_same_one_is_none(
    emit: Emit, tmp_path: Path, h100: Deployment
) -> None:
    first = files(emit())
    assert files(emit()) == first
    k8s.emit(tmp_path, replace(release(h100), digest="f" * 64))
    second = files(tmp_path)
    assert "f" * 64 in second["deployment.yaml"]
    assert second["service.yaml"] == first["service.yaml"]


def test_what_fills_the_claim_can_be_applied_alone(emit: Emit, kubectl: str) -> None:
    tree = emit()
    rendered = subprocess.run(
        [kubectl, "kustomize", tree / "fill"], capture_output=True, text=True, check=True
    )
    kinds = sorted(document["kind"] for document in yaml.safe_load_all(rendered.stdout))
    assert kinds == ["Job", "NetworkPolicy", "PersistentVolumeClaim", "ServiceAccount"]


def test_the_job_and_the_server_select_none_of_each_others_pods(
    emit: Emit, objects: Objects
) -> None:
    rendered = objects(emit())
    job_pods = rendered["Job"]["spec"]["template"]["metadata"]["labels"]
    assert not rendered["Service"]["spec"]["selector"].items() <= job_pods.items()


def test_pod_is_placed_on_the_gpu_of_the_bundle_only(emit: Emit, objects: Objects) -> None:
    gpu = catalog.gpu("a100-40gb")
    pod = objects(emit(gpu=gpu))["Deployment"]["spec"]["template"]["spec"]
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["nodeSelectorTerms"] == node_terms(gpu)


def test_autopilot_makes_a_node_by_a_selector(emit: Emit, objects: Objects) -> None:
    tree = emit({"platform": "gke-autopilot"})
    pod = objects(tree)["Deployment"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert "affinity" not in pod
    with pytest.raises(UsageError, match="GKE has no L40S"):
        emit({"platform": "gke-autopilot"}, gpu=catalog.gpu("l40s"))


def test_openshift_chooses_users_and_groups(emit: Emit, objects: Objects) -> None:
    rendered = objects(emit({"platform": "openshift"}))
    for kind in ("Deployment", "Job"):
        context = rendered[kind]["spec"]["template"]["spec"]["securityContext"]
        assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_several_pods_need_a_volume_that_several_nodes_can_use(
    emit: Emit, objects: Objects
) -> None:
    def modes(**options: Any) -> list[str]:
        found: list[str] = objects(emit(options))["PersistentVolumeClaim"]["spec"]["accessModes"]
        return found

    assert modes() == modes(autoscale="1:1") == ["ReadWriteOnce"]
    assert modes(replicas=2) == modes(surge=True) == modes(autoscale="1:2") == ["ReadWriteMany"]


def test_rollouts(emit: Emit, objects: Objects) -> None:
    def spec(**options: Any) -> dict[str, Any]:
        found: dict[str, Any] = objects(emit(options))["Deployment"]["spec"]
        return found

    one_by_one, surge = {"maxSurge": 0, "maxUnavailable": 1}, {"maxSurge": 1, "maxUnavailable": 0}
    assert spec(replicas=3)["strategy"]["rollingUpdate"] == one_by_one
    assert spec(replicas=3)["replicas"] == 3
    assert spec(surge=True)["strategy"]["rollingUpdate"] == surge
    assert "replicas" not in spec(autoscale="2:4")


def test_gpus_are_claimed_with_dra(emit: Emit, objects: Objects) -> None:
    rendered = objects(emit({"dra": True}, gpus=2))
    pod = rendered["Deployment"]["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in str(pod["containers"])
    assert "affinity" not in pod
    [request] = rendered["ResourceClaimTemplate"]["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"]["count"] == 2
    assert pod["containers"][0]["resources"]["claims"] == [{"name": request["name"]}]


def test_the_dev_variant_runs_anywhere_within_two_processors_and_four_gib(
    emit: Emit, objects: Objects
) -> None:
    rendered = objects(emit(bundle_bytes=3_000_000), "dev")
    pod = rendered["Deployment"]["spec"]["template"]["spec"]
    assert "affinity" not in pod
    assert "nvidia.com/gpu" not in str(pod["containers"])
    limits = [container["resources"]["limits"] for container in pod["containers"]]
    assert [limit["cpu"] for limit in limits] == ["1500m", "500m"]
    assert [limit["memory"] for limit in limits] == ["2584Mi", "512Mi"]
    server = pod["containers"][0]
    env = {entry["name"]: entry["value"] for entry in server["env"]}
    assert env["NEMO_DEPLOY_EXECUTOR"] == "reference"
    assert server["image"].startswith("localhost/nemo-deploy:")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": "usb"}, "unknown --weights 'usb'; known are job, claim, image"),
        ({"platform": "nomad"}, "unknown --platform 'nomad'"),
        ({"namespace": "LLM"}, "--namespace 'LLM': must be lower-case letters"),
        ({"storage_class": "-"}, "--storage-class '-'"),
        ({"registry": "https://registry"}, "--registry 'https://registry': must be HOST"),
        ({"replicas": 0}, "--replicas 0: must be at least 1"),
        ({"keep": 1}, "--keep 1: must be at least 2"),
        ({"autoscale": "0:4"}, "--autoscale '0:4': must be MIN:MAX"),
        ({"autoscale": "4:2"}, "--autoscale '4:2'"),
        ({"autoscale": "1:2", "replicas": 2}, "exclude each other"),
        ({"autoscale": "1:2", "autoscaler": "vpa"}, "unknown --autoscaler 'vpa'"),
        ({"hostname": "llm.example.com"}, "--hostname needs --gateway"),
        ({"prometheus": "monitoring:9090"}, "--prometheus 'monitoring:9090'"),
        ({"token_secret": "HF_TOKEN"}, "--token-secret 'HF_TOKEN'"),
        ({"dra": True, "platform": "gke-autopilot"}, "--dra cannot be used"),
    ],
    ids=lambda value: None if isinstance(value, dict) else "said",
)
def test_options_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        ClusterOptions(**options)


def test_sizes_grow_with_gpus_and_bytes(emit: Emit, objects: Objects) -> None:
    """Two GPUs and 120 GB (111.8 GiB): memory 112 + 2 x 16 + 2 x 4; start-up 1800 s and 120 GB at
    100 MB/s; claim 2 x 112 GiB, 63 GB (58.7 GiB) of downloads and 1 GiB."""
    rendered = objects(emit(gpus=2, bundle_bytes=120_000_000_000))
    server = rendered["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert server["resources"]["requests"] == {
        "cpu": "8",
        "memory": "152Gi",
        "ephemeral-storage": "21Gi",
        "nvidia.com/gpu": "2",
    }
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "2"
    probe = server["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 3000
    claim = rendered["PersistentVolumeClaim"]["spec"]
    assert claim["resources"]["requests"]["storage"] == "284Gi"


def test_environment_of_the_deployment_has_the_last_word(emit: Emit, objects: Objects) -> None:
    given = {"NEMO_DEPLOY_EXECUTOR": "reference", "EXTRA": "1"}
    pod = objects(emit(env=given))["Deployment"]["spec"]["template"]["spec"]
    env = [(entry["name"], entry["value"]) for entry in pod["containers"][0]["env"]]
    assert len(dict(env)) == len(env)
    assert given.items() <= dict(env).items()
    assert dict(env)["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    "image",
    [
        "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        "registry.local:5000/triton:1.0",
        "registry.local:5000/triton@sha256:" + "ab" * 32,
        "registry.local:5000/triton:1.0@sha256:" + "ab" * 32,
    ],
)
def test_kubectl_renders_the_same_for_every_form_of_image(
    emit: Emit, kubectl: str, image: str
) -> None:
    tree = emit(image=image)
    assert not failed(tree)
    top = subprocess.run([kubectl, "kustomize", tree], capture_output=True, text=True, check=True)
    shipped = (tree / "rendered/default.yaml").read_text(encoding="utf-8")
    by_name = {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(shipped)}
    rendered = yaml.safe_load_all(top.stdout)
    assert {(d["kind"], d["metadata"]["name"]): d for d in rendered} == by_name


@pytest.mark.parametrize("name", ["Nemotron", "3-nano", "nano_int4", "nano.int4", "-a", "a" * 60])
def test_name_that_no_service_may_have_is_refused(emit: Emit, name: str) -> None:
    with pytest.raises(BadInputError, match="--out"):
        emit(name=name)


def test_longest_name_fits_with_every_suffix(emit: Emit) -> None:
    assert not failed(emit(name="a" * 59))


@pytest.mark.parametrize("image", ["triton", "triton:latest", "localhost:5000/triton"])
def test_image_without_a_fixed_version_is_refused(emit: Emit, image: str) -> None:
    with pytest.raises(BadInputError, match="version tag or a digest"):
        emit(image=image)


NAMES = st.from_regex(r"[a-z0-9]+(\.[a-z0-9]+)*(:[0-9]{2,5})?(/[a-z0-9._-]+){1,3}", fullmatch=True)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(NAMES, st.none() | TAGS, st.none() | st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True))
def test_image_names_come_apart(name: str, tag: str | None, digest: str | None) -> None:
    text = name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    parsed = parse_image(text)
    assert (parsed.name, parsed.tag, parsed.digest) == (name, tag or "", digest or "")


def test_importing_the_room_is_cheap() -> None:
    heavy = ["yaml", "kubernetes_validate", "torch", "jsonschema"]
    code = f"import sys, nemotron_deploy.k8s; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
