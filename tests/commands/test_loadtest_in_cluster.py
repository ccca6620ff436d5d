"""`loadtest --in-cluster` on a FAKE kubectl (see `fake_kubectl.py`): what is refused, what is made,
and that nothing of it stays. What the pods send is tested on a real node (`tests/cluster/real`)."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.api.loadtest_in_cluster import InCluster, senders
from nemotron_deploy.cli import run
from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.k8s.deploy.watch import Look
from nemotron_deploy.tests.commands.fake_cluster import (
    LISTED,
    SERVING,
    Answer,
    Cluster,
    answer,
    deployment,
    documents,
    recorded,
)

RUN = "0123456789"
JOB = f"nano-load-{RUN}"
CREATED = ("create", "--field-manager=nemo-deploy")
OF_JOB = ("get", "pods", f"--selector=batch.kubernetes.io/job-name={JOB}")


def server(**changes: Any) -> dict[str, Any]:
    """The Deployment as the cluster has it."""
    made = deployment(**SERVING)
    made["spec"] |= changes
    made["spec"]["template"]["spec"] |= {
        "serviceAccountName": "nano",
        "securityContext": {"runAsNonRoot": True},
    }
    return made


def load_job() -> dict[str, Any]:
    labels = {"app.kubernetes.io/instance": "nano"}
    metadata = {"name": JOB, "uid": "job", "labels": labels, "generation": 1}
    return {"kind": "Job", "metadata": metadata, "spec": {"parallelism": 2}}


def pods(ready: bool = True, **status: Any) -> list[dict[str, Any]]:
    rows = [("PodScheduled", True), ("Ready", ready)]
    conditions = [{"type": kind, "status": str(on)} for kind, on in rows]
    return [
        {
            "kind": "Pod",
            "metadata": {
                "name": f"{JOB}-{name}",
                "uid": name,
                "ownerReferences": [{"uid": "job"}],
                "creationTimestamp": "2026-11-28T02:00:00Z",
            },
            "spec": {"nodeName": "here", "containers": []},
            "status": {"conditions": conditions, **status},
        }
        for name in ("b", "a")
    ]


def listed(*items: dict[str, Any]) -> Answer:
    return answer("get", LISTED, out={"kind": "List", "items": items})


def serving() -> list[Answer]:
    """A cluster that serves the bundle and runs the pods of a load test."""
    return [
        recorded("ready")[1],
        listed(load_job(), *pods()),
        answer("get", "deployment", out=server()),
        answer("auth", "can-i", out="yes\n"),
        answer(*CREATED, out=load_job()),
        answer(*OF_JOB, out={"kind": "List", "items": pods()}),
        answer("delete", out=f'job.batch "{JOB}" deleted\n'),
    ]


@pytest.fixture(autouse=True)
def _one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda size: RUN)


def deletions(cluster: Cluster) -> list[list[str]]:
    """The objects that were deleted, of each call."""
    calls = (call[call.index("delete") + 1 :] for call in cluster.calls if "delete" in call)
    return [[word for word in call if not word.startswith("--")] for call in calls]


EVERYTHING = [[f"job/{JOB}", f"networkpolicy/{JOB}"]]


def test_pods_run_beside_the_servers_for_as_long_as_they_are_needed(
    cluster: Cluster, bundle: Path
) -> None:
    cluster.play(*serving())
    looks: list[Look] = []
    options = InCluster(pods=2, context="staging", namespace="llm", looked=looks.append)
    with senders(Bundle.open(bundle), "auto", options) as place:
        assert place.url == "grpc://nano.llm.svc:8001"
        assert place.workers is not None
        assert deletions(cluster) == []
    assert deletions(cluster) == EVERYTHING
    assert [look.position.stage for look in looks] == ["ready", "load-ready"]
    kubectl = str(cluster.folder / "bin" / "kubectl")
    for pod, argv in zip(("a", "b"), place.workers, strict=True):
        words = ["exec", "--stdin", f"{JOB}-{pod}", "--container=loadtest", "--"]
        assert argv[:8] == (kubectl, "--context=staging", "--namespace=llm", *words)


@pytest.mark.parametrize(
    ("protocol", "url"),
    [
        ("grpc", "grpc://nano.llm.svc:8001"),
        ("generate-stream", "http://nano.llm.svc:8000"),
        ("chat", "http://nano.llm.svc:9000"),
        ("completions", "http://nano.llm.svc:9000"),
    ],
)
def test_each_protocol_has_its_port(
    cluster: Cluster, bundle: Path, protocol: str, url: str
) -> None:
    cluster.play(*serving())
    with senders(Bundle.open(bundle), protocol, InCluster()) as place:
        assert place.url == url


def test_pods_are_deleted_when_the_test_fails(cluster: Cluster, bundle: Path) -> None:
    cluster.play(*serving())
    with pytest.raises(ZeroDivisionError), senders(Bundle.open(bundle), "auto", InCluster()):
        raise ZeroDivisionError
    assert deletions(cluster) == EVERYTHING


def test_what_cannot_be_deleted_is_a_warning_and_no_failure(
    cluster: Cluster, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = "The connection to the server 10.0.0.1 was refused\n"
    cluster.play(*serving()[:-1], answer("delete", code=1, err=refused))
    with senders(Bundle.open(bundle), "auto", InCluster()):
        pass
    (record,) = caplog.records
    assert "they end within 12 hours, or delete them: kubectl" in record.getMessage()
    assert f"delete job/{JOB} networkpolicy/{JOB}" in record.getMessage()


def loadtest(
    capsys: pytest.CaptureFixture[str], target: Path | str, *options: str
) -> tuple[int, str]:
    code = run(["loadtest", str(target), "--in-cluster", *options])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


OTHER = server()
OTHER["spec"]["template"]["metadata"]["annotations"] = {"nemo-deploy/bundle": "c" * 64}
USED_UP = (
    'Error from server (Forbidden): pods "nano-x" is forbidden: exceeded quota: small, '
    "requested: pods=1, used: pods=4, limited: pods=4\n"
)
MISSING = 'Error from server (NotFound): namespaces "llm" not found\n'


@pytest.mark.parametrize(
    ("answers", "code", "message"),
    [
        ([answer("get", "namespace", code=1, err=MISSING)], 4, "the namespace llm does not exist"),
        ([answer("get", "deployment", out="")], 4,
         "there is no deployment nano in the namespace llm; deploy the bundle first (nemo-deploy "
         "deploy BUNDLE --context=prod --namespace=llm), or say where it is with --context, "
         "--namespace and --overlay"),
        ([answer("get", "deployment", out=OTHER)], 5,
         "deployment nano in the namespace llm serves the bundle cccccccccc, not DIGEST of BUNDLE; "
         "deploy that one (nemo-deploy deploy BUNDLE --context=prod --namespace=llm)"),
        ([answer("get", "deployment", out=server(replicas=0))], 5,
         "deployment nano has 0 replicas; give it some (kubectl --context prod --namespace llm "
         "scale deployment/nano --replicas=1)"),
        ([answer("auth", "can-i", code=1, out="no\n", err="")], 4,
         "you may not run commands in pods of the namespace llm"),
        ([answer("create", "--dry-run=server", code=1, err=USED_UP)], 5,
         "the load test's pods are refused: the namespace's quota small is exceeded"),
        ([answer("kustomize", out=documents(deployment()).replace("a" * 64, "d" * 64))], 5,
         "is for the bundle dddddddddd, not for this one"),
    ],
    ids=["namespace", "nothing", "other", "no-replicas", "rights", "quota", "manifests"],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_made(
    capsys: pytest.CaptureFixture[str],
    cluster: Cluster,
    bundle: Path,
    answers: list[Answer],
    code: int,
    message: str,
) -> None:
    replaced = [answer["when"] for answer in answers]
    cluster.play(*answers, *(row for row in serving() if row["when"] not in replaced))
    ended, err = loadtest(capsys, bundle)
    text = message.replace("BUNDLE", str(bundle)).replace("DIGEST", cluster.digest[:10])
    assert (ended, text in err) == (code, True), err
    assert not any(set(CREATED) <= set(call) for call in cluster.calls)


def test_servers_that_do_not_get_ready_are_diagnosed(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    cluster.play(recorded("other-gpu")[1], *serving()[2:], state="other-gpu")
    code, err = loadtest(capsys, bundle)
    assert code == 5
    assert "the servers are not ready: pod nano-" in err
    assert "the nearest of 7 nodes, h200-0, has nvidia.com/gpu.product=NVIDIA-H200" in err
    assert not any(set(CREATED) <= set(call) for call in cluster.calls)


def test_pods_that_do_not_run_are_diagnosed_and_deleted(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    state = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
    row = {"name": "loadtest", "image": "localhost/nemo-deploy:0.1.0", "state": state}
    waiting = pods(ready=False, containerStatuses=[row])
    cluster.play(*serving()[:1], listed(load_job(), *waiting), *serving()[2:])
    code, err = loadtest(capsys, bundle, "--pods", "2")
    assert code == 5
    assert "the load test's pods do not run: pod nano-load-" in err
    assert "the image localhost/nemo-deploy:0.1.0 is not pulled: not found; push" in err
    assert "Ready  1 of 1" in err, "the stages before"
    assert deletions(cluster) == EVERYTHING


def test_pods_that_take_too_long_end_the_test(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    starting = listed(load_job(), *pods(ready=False))
    cluster.play(*serving()[:1], starting, *serving()[2:])
    code, err = loadtest(capsys, bundle, "--ready-timeout", "1")
    assert code == 5
    assert "the stage load-pulling takes too long, and no cause shows" in err
    assert deletions(cluster) == EVERYTHING


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grpc://127.0.0.1:8001", "--in-cluster"], "--in-cluster needs the directory of the"),
        (["BUNDLE", "--pods", "2"], "--pods is for --in-cluster"),
        (["BUNDLE", "--ready-timeout", "2"], "--ready-timeout is for --in-cluster"),
        (["BUNDLE", "--in-cluster", "--processes", "2"], "--pods says how many send"),
        (["BUNDLE", "--in-cluster", "--protocol", "smtp"], "--protocol 'smtp': must be one of"),
        (["BUNDLE", "--in-cluster", "--overlay", "prod"], "the bundle has no such overlay"),
    ],
    ids=["address", "pods", "timeout", "processes", "protocol", "overlay"],
)
def test_wrong_usage(
    capsys: pytest.CaptureFixture[str],
    cluster: Cluster,
    bundle: Path,
    words: list[str],
    message: str,
) -> None:
    code = run(["loadtest", *(word.replace("BUNDLE", str(bundle)) for word in words)])
    assert (code, message in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_an_interrupt_deletes_the_pods(
    cluster: Cluster,
    bundle: Path,
    eventually: Callable[[Callable[[], object], str], None],
    number: signal.Signals,
    code: int,
) -> None:
    cluster.play(*serving()[:1], answer("get", LISTED, hold=True), *serving()[2:])
    process = subprocess.Popen(
        [sys.executable, "-m", "nemotron_deploy", "loadtest", str(bundle), "--in-cluster"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy(),
    )  # fmt: skip
    eventually((cluster.folder / "held").exists, "kubectl was not called")
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, ""), err
    assert "interrupted. No report was written." in err
    ((first, second),) = deletions(cluster)
    assert first.startswith("job/nano-load-")
    assert second == first.replace("job/", "networkpolicy/")
    assert json.loads((bundle / "bundle.json").read_text())["complete"]
