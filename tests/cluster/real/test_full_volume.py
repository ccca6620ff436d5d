"""A volume without room for the bundle: the Job says so, and goes on when there is room.

The Job runs as on OpenShift, as a user that the image does not know.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from nemotron_deploy.tests.cluster.kubectl import wait_for
from nemotron_deploy.tests.cluster.real.bundles import Bundles
from nemotron_deploy.tests.cluster.real.node import Namespace
from nemotron_deploy.tests.cluster.real.release import (
    ANY_USER,
    FILLER,
    Object,
    digest,
    job_name,
)

pytestmark = [pytest.mark.cluster, pytest.mark.long]

FAILED_S = 120


@pytest.fixture
def small(new_namespace: Callable[[], Namespace]) -> Iterator[Namespace]:
    """A namespace whose volume has 3 MB; the bundle has more."""
    namespace = new_namespace()
    options = f"size=3m,uid={ANY_USER['runAsUser']},gid=0"
    mount("-t", "tmpfs", "-o", options, "tmpfs", namespace.folder)
    yield namespace
    namespace.run("delete", "pods", "--all", "--force", "--grace-period=0")
    subprocess.run(["umount", "--lazy", namespace.folder], check=True)


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def test_job_goes_on_when_a_full_volume_has_room(small: Namespace, bundles: Bundles) -> None:
    bundle = bundles.build("--platform=openshift")
    text = small("kustomize", bundle / "k8s" / "overlays" / "dev" / "fill")
    objects = list(yaml.safe_load_all(text))
    for pod in (item["spec"]["template"]["spec"] for item in objects if item["kind"] == "Job"):
        pod["securityContext"] |= ANY_USER
    small.apply(*objects)

    def messages() -> list[str]:
        statuses: list[Object] = [pod["status"] for pod in small.pods(name=FILLER)]
        rows = [row for status in statuses for row in status.get("containerStatuses", [])]
        return [
            row["state"]["terminated"]["message"] for row in rows if "terminated" in row["state"]
        ]

    [message, *_] = wait_for("a failure of the Job", messages, FAILED_S)
    assert "the volume is too small" in message
    mount("-o", "remount,size=100m", small.folder)
    small.wait(f"job/{job_name(bundle)}", "condition=Complete")
    assert (small.folder / digest(bundle) / "bundle.json").is_file()
