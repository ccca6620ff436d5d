"""The node of a test cluster, and namespaces on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Any

from nemotron_deploy.tests.cluster.kubectl import Kubectl, wait_for

ROLLOUT_S = 600
"""What a rollout may take on a machine with two busy cores."""

USER = 1000
"""The user of the pods, who must be able to write to volumes."""

LABELS = {
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.memory": "81559",
    "nvidia.com/gpu.count": "8",
}

Object = dict[str, Any]


class Node:
    """The only node of the cluster: this machine."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl
        [node] = kubectl.items("nodes")
        self.name: str = node["metadata"]["name"]

    def prepare(self, image: Path) -> None:
        """Import the image, declare eight H100s, and make a default storage class."""
        subprocess.run(["ctr", "images", "import", image], check=True, capture_output=True)
        self.kubectl("wait", f"node/{self.name}", "--for=condition=Ready", "--timeout=60s")
        labels = [f"{key}={value}" for key, value in LABELS.items()]
        self.kubectl("label", "--overwrite", f"node/{self.name}", *labels)
        gpus = {"nvidia.com/gpu": "8"}
        patch = json.dumps({"status": {"capacity": gpus, "allocatable": gpus}})
        self.kubectl("patch", f"node/{self.name}", "--subresource=status", f"--patch={patch}")
        self.kubectl.apply(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": "manual",
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "Immediate",
            }
        )

    def process(self, container_id: str) -> int:
        """The process id, on this machine, of a container's first process."""
        name = container_id.removeprefix("containerd://")
        listed = subprocess.run(["ctr", "tasks", "ls"], check=True, capture_output=True, text=True)
        rows = dict(line.split()[:2] for line in listed.stdout.splitlines()[1:])
        return int(rows[name])


def descendants(pid: int) -> dict[int, str]:
    """The processes below one, by id, with their names."""
    tree = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            tree[child] = Path(f"/proc/{child}/comm").read_text().strip()
            tree |= descendants(child)
    return tree


class Namespace:
    """A namespace under the restricted Pod Security level, and the volume `folder` in it."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node, self.folder = node, folder
        self.name = f"test-{uuid.uuid4().hex[:8]}"
        levels = {
            f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "warn")
        }
        metadata = {"name": self.name, "labels": levels}
        os.chown(folder, USER, USER)
        folder.chmod(0o2770)  # as `fsGroup` does, which a hostPath does not have
        self.node.kubectl.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata},
            self.volume(self.name, folder, "manual"),
        )
        account = ("serviceaccount/default", "--for=create", "--timeout=60s")
        self("wait", *account)

    @staticmethod
    def volume(name: str, folder: Path, storage_class: str) -> Object:
        """A persistent volume that is a folder of the node."""
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "storageClassName": storage_class,
                "capacity": {"storage": "100Gi"},
                "accessModes": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(folder)},
            },
        }

    def __call__(self, *arguments: str | Path) -> str:
        """kubectl in this namespace; fails where it fails or warns."""
        return self.node.kubectl(*arguments, f"--namespace={self.name}")

    def run(self, *arguments: str | Path, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """kubectl in this namespace, whatever its exit status."""
        scope = f"--namespace={self.name}"
        return self.node.kubectl.run(*arguments, scope, seconds=seconds)

    def items(self, *arguments: str) -> list[Object]:
        """Objects of this namespace."""
        return self.node.kubectl.items(*arguments, f"--namespace={self.name}")

    def apply(self, *objects: Object) -> None:
        """Apply objects in this namespace."""
        self.node.kubectl.apply(
            *({**o, "metadata": {**o["metadata"], "namespace": self.name}} for o in objects)
        )

    def wait(self, what: str, condition: str, seconds: int = ROLLOUT_S) -> None:
        """`kubectl wait`; where it fails, the message has the state of all pods."""
        done = self.run(
            "wait", what, f"--for={condition}", f"--timeout={seconds}s", seconds=seconds + 30
        )
        assert done.returncode == 0, f"{what}: {done.stderr}\n{self.state()}"

    def rolled_out(self, deployment: str, seconds: int = ROLLOUT_S) -> None:
        """Wait until what was applied last, not what was before it, is rolled out."""
        [now] = self.items("deployment", deployment)
        generation = now["metadata"]["generation"]
        wait_for(
            f"generation {generation} of {deployment}",
            lambda: self.observed(deployment) >= generation,
        )
        done = self.run(
            "rollout", "status", f"deployment/{deployment}", f"--timeout={seconds}s",
            seconds=seconds + 30,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stderr}\n{self.state()}"

    def observed(self, deployment: str) -> int:
        """The generation that the controller has seen."""
        [now] = self.items("deployment", deployment)
        return int(now["status"].get("observedGeneration", 0))

    def pods(self, **labels: str) -> list[Object]:
        """The pods that are not being deleted."""
        selector = ",".join(f"app.kubernetes.io/{key}={value}" for key, value in labels.items())
        pods = self.items("pods", f"--selector={selector}")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def kill(self, pod: Object, container: str, process: str | None = None) -> None:
        """SIGKILL for a container's first process, or for one below it that has this name."""
        [fresh] = self.items("pod", pod["metadata"]["name"])
        [status] = [s for s in fresh["status"]["containerStatuses"] if s["name"] == container]
        pid = self.node.process(status["containerID"])
        if process is not None:
            [pid] = [child for child, name in descendants(pid).items() if name == process]
        os.kill(pid, signal.SIGKILL)

    def state(self) -> str:
        """What is there, and what happened, for the message of a failure."""
        pods = self.run("describe", "pods").stdout
        events = self.run("get", "events", "--sort-by=.lastTimestamp").stdout
        names = self.run("get", "pods", "--output=name").stdout.split()
        logs = [self.run("logs", name, "--all-containers", "--tail=40").stdout for name in names]
        return "\n".join([pods[-6000:], events[-4000:], *logs])

    def delete(self) -> None:
        """Delete the namespace and its volume, without waiting for the pods' grace."""
        self.run("delete", "pods", "--all", "--force", "--grace-period=0")
        self.node.kubectl.run("delete", "namespace", self.name, "--wait=false")
        self.node.kubectl.run("delete", "persistentvolume", self.name, "--wait=false")


def eviction(namespace: Namespace, pod: str) -> subprocess.CompletedProcess[str]:
    """Ask the API to evict a pod, as a drain does."""
    document = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": namespace.name},
    }
    path = f"/api/v1/namespaces/{namespace.name}/pods/{pod}/eviction"
    return namespace.node.kubectl.run(
        "create", f"--raw={path}", "--filename=-", stdin=json.dumps(document)
    )
