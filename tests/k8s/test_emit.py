from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy import k8s
from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.k8s.images import parse_image
from nemotron_deploy.model import catalog
from nemotron_deploy.model.spec import Deployment

GOLDEN = Path(__file__).parent / "golden"
Emit = Callable[..., Path]
Objects = Callable[..., dict[str, Any]]


def files(folder: Path) -> dict[str, str]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in paths}


@pytest.mark.parametrize("case", ["h100-int4", "a100-bf16", "a100-int4-vllm"])
def test_tree_is_the_golden_one(
    case: str, deployments: dict[str, Deployment], tmp_path: Path
) -> None:
    k8s.emit(tmp_path, deployments[case])
    if os.environ.get("UPDATE_GOLDEN") == "1":
        shutil.rmtree(GOLDEN / case, ignore_errors=True)
        shutil.copytree(tmp_path, GOLDEN / case)
    assert files(tmp_path) == files(GOLDEN / case)


def test_pod_is_placed_on_the_gpu_of_the_bundle_only(emit: Emit, objects: Objects) -> None:
    pod = objects(emit(gpu=catalog.gpu("a100-40gb")))["Deployment"]["spec"]["template"]["spec"]
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms["nodeSelectorTerms"] == [
        {
            "matchExpressions": [
                {
                    "key": "nvidia.com/gpu.product",
                    "operator": "In",
                    "values": ["NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"],
                }
            ]
        }
    ]


def test_sizes_grow_with_gpus_and_bytes(emit: Emit, objects: Objects) -> None:
    """Two GPUs and 120 GB (111.8 GiB): memory 112 + 2 x 16 + 2 x 4, claim 2 x 112 + 1 GiB;
    start-up 1800 s and 120 GB at 100 MB/s."""
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
    assert claim["resources"]["requests"]["storage"] == "225Gi"


def test_environment_of_the_deployment_has_the_last_word(emit: Emit, objects: Objects) -> None:
    given = {"NEMO_DEPLOY_EXECUTOR": "reference", "EXTRA": "1"}
    pod = objects(emit(env=given))["Deployment"]["spec"]["template"]["spec"]
    env = [(entry["name"], entry["value"]) for entry in pod["containers"][0]["env"]]
    assert len(dict(env)) == len(env)
    assert given.items() <= dict(env).items()
    assert dict(env)["HF_HUB_OFFLINE"] == "1"


def test_image_overlay_runs_the_built_image_without_a_claim(emit: Emit, objects: Objects) -> None:
    tree = emit()
    rendered = objects(tree, "image")
    assert "PersistentVolumeClaim" not in rendered
    pod = rendered["Deployment"]["spec"]["template"]["spec"]
    assert "initContainers" not in pod
    image = pod["containers"][0]["image"]
    assert image.startswith("localhost/nemotron-3-nano-30b-a3b-h100-int4:")
    containerfile = (tree / "overlays/image/Containerfile").read_text(encoding="utf-8")
    assert f"--tag {image} " in containerfile
    assert "FROM nvcr.io/nvidia/tritonserver:26.07" in containerfile


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
    assert all(check.ok for check in k8s.check(tree)), k8s.check(tree)
    top = subprocess.run([kubectl, "kustomize", tree], capture_output=True, text=True, check=True)
    shipped = (tree / "rendered/claim.yaml").read_text(encoding="utf-8")
    by_kind = {d["kind"]: d for d in yaml.safe_load_all(shipped)}
    assert {d["kind"]: d for d in yaml.safe_load_all(top.stdout)} == by_kind


@pytest.mark.parametrize("name", ["Nemotron", "3-nano", "nano_int4", "nano.int4", "-a", "a" * 58])
def test_name_that_no_service_may_have_is_refused(emit: Emit, name: str) -> None:
    with pytest.raises(BadInputError, match="--out"):
        emit(name=name)


def test_longest_name_fits_with_every_suffix(emit: Emit) -> None:
    assert all(check.ok for check in k8s.check(emit(name="a" * 57)))


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
