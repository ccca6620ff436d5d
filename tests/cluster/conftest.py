"""A real control plane for tests: one that the environment names, or one started here.

Binaries are found by envtest's convention, the folder `KUBEBUILDER_ASSETS`; besides its three
(etcd, kube-apiserver, kubectl) it must hold kube-controller-manager, kube-scheduler and kwok,
which plays the kubelet of the GPU nodes: a pod that is bound is Ready at once, nothing runs.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.tests.cluster.kubectl import Kubectl, wait_for

HERE = Path(__file__).parent
BINARIES = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "kubectl",
)  # fmt: skip


class ControlPlane:
    """The processes of one cluster, on free ports of the loopback interface."""

    def __init__(self, binaries: Path, home: Path) -> None:
        self.binaries, self.home = binaries, home
        self.kubeconfig = home / "kubeconfig"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, name: str, **flags: object) -> None:
        arguments = [f"--{key.replace('_', '-')}={value}" for key, value in flags.items()]
        with (self.home / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [self.binaries / name, *arguments], stdout=log, stderr=log, cwd=self.home
            )

    def start(self) -> None:
        client, peer, secure, manager, scheduler = free_ports(5)
        etcd, peers = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        key, tokens, token = self.home / "sa.key", self.home / "tokens", secrets.token_hex(16)
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens.touch(0o600)
        tokens.write_text(f'{token},admin,admin,"system:masters"\n')
        self.spawn(
            "etcd", data_dir=self.home / "etcd", unsafe_no_fsync="true", log_level="warn",
            listen_client_urls=etcd, advertise_client_urls=etcd, listen_peer_urls=peers,
            initial_advertise_peer_urls=peers, initial_cluster=f"default={peers}",
        )  # fmt: skip
        self.spawn(
            "kube-apiserver", etcd_servers=etcd, bind_address="127.0.0.1", secure_port=secure,
            cert_dir=self.home / "pki", token_auth_file=tokens, authorization_mode="Node,RBAC",
            service_cluster_ip_range="10.96.0.0/16", endpoint_reconciler_type="none",
            service_account_issuer="https://kubernetes.default.svc.cluster.local",
            service_account_key_file=key, service_account_signing_key_file=key,
        )  # fmt: skip
        self.write_kubeconfig(f"https://127.0.0.1:{secure}", token)
        kubectl = Kubectl(self.binaries / "kubectl", self.kubeconfig)
        wait_for("kube-apiserver", lambda: self.alive() and ready(kubectl))
        common = {
            "leader_elect": "false", "bind_address": "127.0.0.1", "kubeconfig": self.kubeconfig,
            "authentication_kubeconfig": self.kubeconfig,
            "authorization_kubeconfig": self.kubeconfig,
        }  # fmt: skip
        self.spawn(
            "kube-controller-manager", **common, secure_port=manager, controllers="*,-nodeipam",
            cert_dir=self.home / "manager", service_account_private_key_file=key,
            root_ca_file=self.home / "pki" / "apiserver.crt",
        )  # fmt: skip
        self.spawn("kube-scheduler", **common, secure_port=scheduler)
        self.spawn(
            "kwok", kubeconfig=self.kubeconfig, manage_all_nodes="false", server_address="",
            manage_nodes_with_annotation_selector="kwok.x-k8s.io/node=fake",
        )  # fmt: skip
        wait_for("service accounts", lambda: self.alive() and kubectl.items("serviceaccounts"))

    def write_kubeconfig(self, url: str, token: str) -> None:
        self.kubeconfig.touch(0o600)
        cluster = {
            "server": url,
            "certificate-authority": str(self.home / "pki" / "apiserver.crt"),
            "tls-server-name": "kubernetes",
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }
        self.kubeconfig.write_text(json.dumps(document))

    def alive(self) -> bool:
        for name, process in self.processes.items():
            if process.poll() is not None:
                log = (self.home / f"{name}.log").read_text(errors="replace")
                pytest.fail(f"{name} ended with {process.returncode}: {log[-2000:]}")
        return True

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def ready(kubectl: Kubectl) -> bool:
    return bool(kubectl.run("get", "--raw=/readyz").returncode == 0)


def is_for_tests(kubectl: Kubectl) -> bool:
    """Whether the cluster answers on this machine and has no node but fake ones. These tests make
    nodes and volumes: they must never run against a cluster that somebody uses."""
    server = kubectl.run("config", "view", "--minify", "--output=jsonpath={..server}").stdout
    if not server.startswith(("https://127.0.0.1:", "https://localhost:")) or not ready(kubectl):
        return False
    nodes = [node["metadata"].get("annotations", {}) for node in kubectl.items("nodes")]
    return all(node.get("kwok.x-k8s.io/node") == "fake" for node in nodes)


def gpu_node(row: dict[str, Any]) -> dict[str, Any]:
    size = {
        "cpu": str(row["cpu"]),
        "memory": row["ram"],
        "ephemeral-storage": "1Ti",
        "pods": "110",
        "nvidia.com/gpu": str(row["gpus"]),
    }
    labels = {
        "kubernetes.io/hostname": row["name"],
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": row["product"],
        "nvidia.com/gpu.memory": str(row["memory"]),
        "nvidia.com/gpu.count": str(row["gpus"]),
    }
    annotations = {"kwok.x-k8s.io/node": "fake"}
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": row["name"], "labels": labels, "annotations": annotations},
        "spec": {"taints": [taint]},
        "status": {"capacity": size, "allocatable": size},
    }


def storage_class() -> dict[str, Any]:
    """The default class; volumes are made by hand (`volume`), nothing provisions."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "manual", "annotations": default},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """kubectl on a cluster with the GPU nodes of `gpu_nodes.json` and a default storage class."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        pytest.skip("KUBEBUILDER_ASSETS is not set: no binaries for a control plane")
    binaries = Path(assets)
    missing = [name for name in BINARIES if not (binaries / name).exists()]
    if missing:
        pytest.skip(f"KUBEBUILDER_ASSETS={assets} lacks {', '.join(missing)}")
    plane = None
    kubectl = Kubectl(binaries / "kubectl", Path(os.environ.get("KUBECONFIG", os.devnull)))
    if "KUBECONFIG" not in os.environ or not is_for_tests(kubectl):
        plane = ControlPlane(binaries, tmp_path_factory.mktemp("control-plane"))
        kubectl = Kubectl(binaries / "kubectl", plane.kubeconfig)
    try:
        if plane:
            plane.start()
        rows = json.loads((HERE / "gpu_nodes.json").read_text(encoding="utf-8"))["nodes"]
        kubectl.apply(*map(gpu_node, rows), storage_class())
        for row in rows:
            kubectl("wait", f"node/{row['name']}", "--for=condition=Ready", "--timeout=60s")
        yield kubectl
    finally:
        if plane:
            plane.stop()


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace that enforces, and warns of, the restricted level; with a volume to bind."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    levels = {f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "warn")}
    metadata = {"name": name, "labels": levels}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}, volume(name))
    account = ("get", "serviceaccount", "default", f"--namespace={name}")
    wait_for("the default account", lambda: kubectl.run(*account).returncode == 0)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")
    kubectl("delete", "persistentvolume", name, "--wait=false")


def volume(name: str) -> dict[str, Any]:
    spec = {
        "storageClassName": "manual",
        "capacity": {"storage": "500Gi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": f"/nonexistent/{name}"},
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": spec,
    }
