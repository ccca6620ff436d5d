"""A cluster behind the FAKE kubectl (see `fake_kubectl.py`), and bundles for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemotron_deploy.core.bundle import STAGES, MadeFrom, building
from nemotron_deploy.core.record import Header
from nemotron_deploy.tests.k8s.recorded_rollouts import DIGEST, document

FAKE = Path(__file__).parent / "fake_kubectl.py"
CONFIG = {
    "current-context": "prod",
    "contexts": [
        {"name": "prod", "context": {"namespace": "llm"}},
        {"name": "staging", "context": {}},
    ],
}
VERSION = {
    "clientVersion": {"gitVersion": "v1.34.4"},
    "serverVersion": {"gitVersion": "v1.33.2-gke.100"},
}
LISTED = "deployments.apps,replicasets.apps,pods,jobs.batch,persistentvolumeclaims"

SCALERS = "horizontalpodautoscalers.autoscaling"
"""Of the optional objects, what this cluster knows."""

Answer = dict[str, Any]


def answer(*when: str, **played: Any) -> Answer:
    out = played.pop("out", "")
    return {"when": when, "out": out if isinstance(out, str) else json.dumps(out), **played}


def recorded(name: str) -> list[Answer]:
    """What kubectl lists in a recorded state."""
    stored = document(name)

    def listed(*kinds: str) -> dict[str, Any]:
        return {"kind": "List", "items": [o for o in stored["objects"] if o["kind"] in kinds]}

    own = ("Deployment", "ReplicaSet", "Pod", "Job", "PersistentVolumeClaim")
    return [
        answer("get", "pods", "--all-namespaces", out=listed("Pod")),
        answer("get", LISTED, out=listed(*own)),
        answer("get", "events", out=listed("Event")),
        answer("get", "poddisruptionbudgets.policy", out=listed("PodDisruptionBudget")),
        answer("get", "nodes", out=listed("Node")),
        answer("get", "storageclasses.storage.k8s.io", out=listed("StorageClass")),
        answer("get", "runtimeclasses.node.k8s.io", out=listed("RuntimeClass")),
        *(answer("logs", log.split("/")[0], out=text) for log, text in stored["logs"].items()),
    ]


def deployment(image: str = "tritonserver:26.07", **status: int) -> dict[str, Any]:
    """The server as the tree has it."""
    labels = {"app.kubernetes.io/instance": "nano"}
    metadata = {"labels": labels, "annotations": {"nemo-deploy/bundle": DIGEST}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "nano", "generation": 1},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": metadata,
                "spec": {"containers": [{"name": "triton", "image": image}]},
            },
        },
        "status": {"observedGeneration": 1, **status},
    }


SERVING: dict[str, Any] = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}


def documents(*objects: dict[str, Any]) -> str:
    return "\n---\n".join(map(json.dumps, objects))  # JSON is YAML


class Cluster:
    """The fake's answers: by default those of a cluster on which all goes well."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder, self.digest = folder, digest
        self.usual = [
            answer("config", "view", out=CONFIG),
            answer("version", out=VERSION),
            answer("kustomize", out=documents(deployment())),
            answer("get", "namespace", out="namespace/llm"),
            answer("diff", code=1, out=""),
            answer("apply", "--dry-run=server", out=deployment()),
            answer("apply", out="deployment.apps/nano serverside-applied\n"),
            answer("create", "--dry-run=server", out="pod/nano-x"),
            answer("get", "deployment", out=""),
            answer("api-resources", out=f"pods\n{SCALERS}\n"),
            answer("get", SCALERS, out=""),
        ]
        self.play()

    def play(self, *answers: Answer, state: str = "ready") -> None:
        """Answer from now on with `answers`, instead of those of `state` for the same words."""
        replaced = [answer["when"] for answer in answers]
        usual = [row for row in (*recorded(state), *self.usual) if row["when"] not in replaced]
        text = json.dumps([*answers, *usual]).replace(DIGEST, self.digest)
        (self.folder / "answers.json").write_text(text)
        (self.folder / "calls.jsonl").unlink(missing_ok=True)

    @property
    def calls(self) -> list[list[str]]:
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def applied(self) -> list[str]:
        """The folders that were really applied, in order."""
        return [
            call[-1] for call in self.calls if "apply" in call and "--dry-run=server" not in call
        ]


def make(path: Path, *folders: str) -> Path:
    def stage(work: Path) -> None:
        for folder in ("", *folders):
            (work / folder).mkdir(exist_ok=True)
            (work / folder / "kustomization.yaml").write_text("resources: []\n")

    header = Header(name="nano", model_name="nano", asked={})
    with building(path, header) as opened:
        for name in STAGES:
            opened.run_stage(name, MadeFrom("encoding 1", name), stage)
    return path
