"""Bundles that must not be served, applied beside one that is.

The manifests let a rollout start the new pod first. The old one goes on serving, the new one never
gets a request, and its termination message says why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemotron_deploy.runtime.check_bundle import files_digest
from nemotron_deploy.tests.cluster.kubectl import wait_for
from nemotron_deploy.tests.cluster.real.bundles import DEVELOPMENT, Bundles
from nemotron_deploy.tests.cluster.real.node import Namespace
from nemotron_deploy.tests.cluster.real.release import (
    CHECK,
    DIGEST,
    TRITON,
    Object,
    Release,
    as_any_user,
    condition,
    digest,
    memory_limit,
)

pytestmark = [pytest.mark.cluster, pytest.mark.long]

OPTIONS = ("--weights=claim", "--platform=openshift")
BAD_S = 300
"""What a pod may take to end."""


@pytest.fixture(scope="module")
def good(bundles: Bundles) -> Path:
    return bundles.build(*OPTIONS)


@pytest.fixture(scope="module")
def serving(
    new_namespace: Callable[[], Namespace], good: Path, tmp_path_factory: pytest.TempPathFactory
) -> Release:
    """The good bundle, served as on OpenShift."""
    release = Release(new_namespace(), tmp_path_factory.mktemp("overlays"), surge=True)
    release.copy_to_claim(good)
    release.apply(good, as_any_user())
    release.ready()
    return release


@pytest.fixture
def release(serving: Release, good: Path) -> Iterator[Release]:
    """The release; at the end the good bundle still serves, and one command goes back to it."""
    [pod] = serving.pods()
    yield serving
    assert serving.served() == {digest(good)}
    serving.namespace("rollout", "undo", f"deployment/{DEVELOPMENT}")
    serving.ready()
    [same] = serving.pods()
    assert same["metadata"]["name"] == pod["metadata"]["name"]
    assert same["status"]["containerStatuses"] == pod["status"]["containerStatuses"]


def termination(release: Release, container: str) -> Object:
    """How a container of the newest pod ended first."""

    def ended() -> Object | None:
        newest = max(release.pods(), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        status = newest["status"]
        rows = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        states = [
            state["terminated"]
            for row in rows
            if row["name"] == container
            for state in (row["state"], row.get("lastState", {}))
            if "terminated" in state
        ]
        assert condition(newest, "Ready") != "True" or len(release.pods()) == 1
        return next((state for state in states if state["exitCode"] != 0), None)

    ending: Object = wait_for(f"the end of {container}", ended, BAD_S)
    return ending


def test_golden_outputs_off(
    release: Release, good: Path, bundles: Bundles, exchange_experts: Callable[[Path], None]
) -> None:
    """Every digest is right, and the weights are another model's."""
    bundle = bundles.copy(good)
    exchange_experts(bundle)
    changed = files_digest(json.loads((bundle / "bundle.json").read_text()))
    for file in (bundle / "k8s" / "overlays" / "dev").glob("*.yaml"):
        file.write_text(file.read_text().replace(digest(good), changed))
    release.copy_to_claim(bundle)
    release.apply(bundle)
    assert "golden outputs differ" in termination(release, TRITON)["message"]


def test_flipped_byte(release: Release, bundles: Bundles) -> None:
    bundle = bundles.build(*OPTIONS, "--context=2048")
    weights = release.copy_to_claim(bundle) / "checkpoint" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    release.apply(bundle)
    message = termination(release, CHECK)["message"]
    assert "checkpoint/model.safetensors: digest differs" in message


def test_bundle_for_another_gpu(release: Release, bundles: Bundles) -> None:
    wanted, other = bundles.build(*OPTIONS, "--context=1024"), bundles.build(*OPTIONS, "--gpu=l40s")
    release.copy_to_claim(other, digest(wanted))
    release.apply(wanted)
    message = termination(release, CHECK)["message"]
    assert "another gpu" in message
    assert "l40s" in message


def test_memory_too_small(release: Release, good: Path) -> None:
    release.apply(good, memory_limit("256Mi"))
    assert termination(release, TRITON)["reason"] == "OOMKilled"
    [_, bad] = sorted(release.pods(), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    assert bad["metadata"]["annotations"][DIGEST] == digest(good)
