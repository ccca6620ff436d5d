"""`deploy` on a FAKE kubectl that plays what real ones answered (see `fake_kubectl.py`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.cli import run
from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.tests.commands.fake_cluster import (
    LISTED,
    SCALERS,
    SERVING,
    VERSION,
    Answer,
    Cluster,
    answer,
    deployment,
    documents,
    make,
    recorded,
)

REFUSED = (
    'E1127 23:14:41.330489 31213 memcache.go:265] "Unhandled Error"\n'
    "The connection to the server 10.0.0.1 was refused - did you specify the right host or port?\n"
)
JOB = "nano-fill-aaaaaaaaaa"
NEXT = (
    "kubectl --context prod --namespace llm port-forward service/nano 8001:8001",
    "nemo-deploy loadtest grpc://127.0.0.1:8001",
)


def job() -> dict[str, Any]:
    template = {"metadata": {}, "spec": {"containers": [{"name": "fill", "image": "x:1"}]}}
    metadata = {"name": JOB, "generation": 1}
    spec = {"template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def deploy(capsys: pytest.CaptureFixture[str], bundle: Path, *options: str) -> tuple[int, str, str]:
    code = run(["deploy", str(bundle), *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_first_deployment_is_watched_until_it_is_ready(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    states = [recorded(name)[1] for name in ("quota-used", "verifying", "loading", "ready")]
    cluster.play(*states)
    code, out, err = deploy(capsys, bundle)
    assert code == 0, err
    assert "Deploying" in out
    assert "nano to prod, namespace llm" in out
    assert "no outage: nothing is deployed under this name yet" in out
    order = ("Node", "Checking the bundle", "Loading the model", "Ready")
    places = [out.index(f"\n{title}") for title in order]
    assert places == sorted(places)
    for command in NEXT:
        assert command in out
    assert "\x1b" not in out
    assert cluster.applied() == [str(bundle / "k8s")]
    call = next(call for call in cluster.calls if "apply" in call)
    assert {"--server-side", "--field-manager=nemo-deploy", "--context=prod"} <= set(call)


def test_json_is_one_document(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    code, out, err = deploy(capsys, bundle, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["state"], result["digest"]) == ("ready", cluster.digest)
    assert result["plan"]["outage"]["happens"] is False
    assert result["next"] == list(NEXT)
    assert [row["stage"] for row in result["stages"]] == ["ready"]
    assert result["plan"]["warnings"] == ["the fake kubectl warns although all is well"]


@pytest.mark.parametrize(("code", "text"), [(0, "nothing"), (1, "Deployment/nano")])
def test_a_dry_run_compares_and_changes_nothing(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path, code: int, text: str
) -> None:
    """`kubectl diff` ends with 0 where nothing differs and with 1 where something does."""
    file = "apps.v1.Deployment.llm.nano"
    difference = (
        f"diff -u -N /tmp/LIVE-1/{file} /tmp/MERGED-2/{file}\n--- a\n+++ b\n@@ -1,2 +1,2 @@\n"
        "-  image: tritonserver:26.06\n+  image: tritonserver:26.07\n"
    )
    cluster.play(answer("diff", code=code, out=difference if code else ""))
    status, out, err = deploy(capsys, bundle, "--dry-run")
    assert status == 0, err
    assert text in out
    assert ("+  image: tritonserver:26.07" in out) == bool(code)
    assert "Nothing was changed" in out
    assert cluster.applied() == []


def test_a_claim_is_filled_before_the_server_is_changed(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, tmp_path: Path
) -> None:
    bundle = make(tmp_path / "with-fill" / "nano", "fill")
    filled = recorded("filling")[1]
    items = json.loads(filled["out"])
    for item in items["items"]:
        if item["kind"] == "Job":
            item["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
    tree = answer("kustomize", out=documents(deployment(), job()))
    both = json.loads(recorded("ready")[1]["out"])
    both["items"] += items["items"]
    cluster.play(
        recorded("filling")[1],
        answer("get", LISTED, out=items),
        answer("get", LISTED, out=both),
        recorded("filling")[-1],
        tree,
    )
    code, out, err = deploy(capsys, bundle)
    assert code == 0, err
    assert "Filling the claim" in out
    assert "checkpoint 19% of 63.00 GB 80.00 MB/s 10 min 37 s left" in out
    assert cluster.applied() == [str(bundle / "k8s" / "fill"), str(bundle / "k8s")]
    applied = [n for n, call in enumerate(cluster.calls) if call[-1] == str(bundle / "k8s")][-1]
    looks = [n for n, call in enumerate(cluster.calls) if LISTED in call]
    assert sum(n < applied for n in looks) == 2, "the claim is full before the server is applied"


def test_without_waiting_an_empty_claim_is_filled_only(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, tmp_path: Path
) -> None:
    bundle = make(tmp_path / "with-fill" / "nano", "fill")
    cluster.play(answer("kustomize", out=documents(deployment(), job())), state="filling")
    code, out, err = deploy(capsys, bundle, "--no-wait")
    assert code == 0, err
    assert "run the same command again to change the server" in out
    assert cluster.applied() == [str(bundle / "k8s" / "fill")]


def test_without_waiting_the_server_is_applied(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    code, out, err = deploy(capsys, bundle, "--no-wait")
    assert code == 0, err
    assert "Applied, not watched" in out
    assert not any(LISTED in call for call in cluster.calls)


def test_an_outage_is_announced(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    live = answer("get", "deployment", out=deployment(image="tritonserver:26.06", **SERVING))
    pods = answer("get", "pods", "--selector=app.kubernetes.io/instance=nano", out={"items": []})
    cluster.play(live, pods)
    code, out, err = deploy(capsys, bundle, "--dry-run")
    assert code == 0, err
    assert "OUTAGE of about 3 min" in out
    assert "assumed from the bundle's size" in out
    same = answer("get", "deployment", out=deployment(**SERVING))
    cluster.play(same, pods)
    code, out, err = deploy(capsys, bundle, "--dry-run")
    assert "no outage: the pods stay as they are" in out


FORBIDDEN = (
    'Error from server (Forbidden): error when creating "STDIN": pods "nano-x" is forbidden: '
    'violates PodSecurity "restricted:latest": runAsNonRoot != true\n'
)
NO_RIGHT = (
    'Error from server (Forbidden): pods is forbidden: User "eve" cannot create resource "pods" '
    'in API group "" in the namespace "llm"\n'
)


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_what_admission_would_refuse_is_not_applied(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path, options: tuple[str, ...]
) -> None:
    cluster.play(answer("create", "--dry-run=server", code=1, err=FORBIDDEN))
    code, out, _ = deploy(capsys, bundle, *options)
    assert code == 5
    assert "Pod Security level restricted:latest refuses the pod: runAsNonRoot != true" in " ".join(
        out.split()
    )
    assert cluster.applied() == []


def test_whoever_may_not_create_pods_may_deploy(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    cluster.play(answer("create", "--dry-run=server", code=1, err=NO_RIGHT))
    code, _, err = deploy(capsys, bundle)
    assert code == 0, err


def test_whoever_may_not_read_namespaces_may_deploy(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    denied = NO_RIGHT.replace("create", "get").replace("pods", "namespaces")
    cluster.play(answer("get", "namespace", code=1, err=denied))
    code, _, err = deploy(capsys, bundle)
    assert code == 0, err


def test_what_an_earlier_bundle_left_is_named_with_the_command_that_deletes_it(
    cluster: Cluster, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaler = "horizontalpodautoscaler.autoscaling/nano"
    cluster.play(
        answer("get", SCALERS, out=f"{scaler}\n"),
        answer("get", "deployment", out=deployment(**SERVING)),
        answer("get", "pods", "--selector=app.kubernetes.io/instance=nano", out={"items": []}),
    )
    code, out, err = deploy(capsys, bundle, "--json")
    assert code == 0, err
    [warning] = [text for text in json.loads(out)["plan"]["warnings"] if scaler in text]
    assert "changes the number of replicas" in warning
    assert warning.endswith(f"kubectl --context prod --namespace llm delete {scaler}")


def test_a_bundle_that_has_to_be_pushed_is_named(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    server = deployment()
    volumes = [{"name": "bundle", "persistentVolumeClaim": {"claimName": "nano"}}]
    server["spec"]["template"]["spec"]["volumes"] = volumes
    cluster.play(answer("kustomize", out=documents(server)))
    code, out, err = deploy(capsys, bundle, "--dry-run", "--json")
    assert code == 0, err
    expected = f"the server waits until the claim holds the bundle: nemo-deploy push {bundle}"
    assert expected in json.loads(out)["plan"]["warnings"]


def test_a_stall_that_waiting_does_not_heal_ends_the_command(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    cluster.play(state="other-gpu")
    code, out, _ = deploy(capsys, bundle)
    assert code == 5
    assert "Stalled" in out
    assert "the nearest of 7 nodes, h200-0, has nvidia.com/gpu.product=NVIDIA-H200" in out
    code, out, _ = deploy(capsys, bundle, "--json")
    assert code == 5
    result = json.loads(out)
    assert result["state"] == "stalled"
    assert result["diagnoses"][0]["cause"] == "no-matching-node"


def test_after_a_failed_update_the_way_back_is_named(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    live = answer("get", "deployment", out=deployment(image="tritonserver:26.06", **SERVING))
    pods = answer("get", "pods", "--selector=app.kubernetes.io/instance=nano", out={"items": []})
    cluster.play(live, pods, state="crash-server")
    code, out, _ = deploy(capsys, bundle)
    assert code == 5
    assert "golden outputs differ" in out
    assert "kubectl --context prod --namespace llm rollout undo deployment/nano" in out


def test_what_may_heal_is_waited_for_until_the_time_is_over(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    cluster.play(state="busy")
    code, out, _ = deploy(capsys, bundle, "--timeout", "1")
    assert code == 5
    assert "Not ready in time" in out
    assert "has 0 of 8 nvidia.com/gpu free" in out


def test_without_rights_to_the_cluster_s_own_objects_a_rollout_is_watched(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    denied = 'Error from server (Forbidden): x is forbidden: User "eve" cannot list resource "x"\n'
    kinds = ("nodes", "storageclasses.storage.k8s.io", "runtimeclasses.node.k8s.io", "events")
    cluster.play(
        *(answer("get", kind, code=1, err=denied) for kind in kinds),
        answer("get", "pods", "--all-namespaces", code=1, err=denied),
        state="other-gpu",
    )
    code, out, _ = deploy(capsys, bundle, "--timeout", "1")
    assert code == 5
    assert "node(s) didn't match Pod's node affinity/selector" in " ".join(out.split())


CONFLICT = (
    'error: Apply failed with 1 conflict: conflict with "kubectl-set" using apps/v1: '
    '.spec.template.spec.containers[name="triton"].image\nPlease review the fields above\n'
)


def test_what_kubectl_applied_before_is_taken_over(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    dry = next(row for row in cluster.usual if "--dry-run=server" in row["when"])
    theirs = CONFLICT.replace("kubectl-set", "kubectl-client-side-apply")
    cluster.play(
        {**dry, "when": [*dry["when"], "--force-conflicts"]},
        answer(*dry["when"], code=1, err=theirs),
    )
    code, _, err = deploy(capsys, bundle)
    assert code == 0, err
    applies = [call for call in cluster.calls if "apply" in call and call != cluster.calls[0]]
    assert "--force-conflicts" in applies[-1]


OLD_CLIENT = {**VERSION, "clientVersion": {"gitVersion": "v1.24.1"}}
OLD_SERVER = {**VERSION, "serverVersion": {"gitVersion": "v1.27.16-eks-1"}}


@pytest.mark.parametrize(
    ("answers", "options", "code", "message"),
    [
        ([answer("version", code=1, out=VERSION["clientVersion"], err=REFUSED)], (), 4,
         "kubectl has version (unknown)"),
        ([answer("version", code=1, out={"clientVersion": VERSION["clientVersion"]}, err=REFUSED)],
         (), 4, "no cluster answers: The connection to the server 10.0.0.1 was refused"),
        ([answer("version", out=OLD_CLIENT)], (), 4, "kubectl has version v1.24.1; 1.29 or later"),
        ([answer("version", out=OLD_SERVER)], (), 4,
         "the cluster's Kubernetes has version v1.27.16-eks-1; 1.30 or later"),
        ([], ("--context", "prd"), 4,
         "--context prd: kubectl has no such context; did you mean prod?"),
        ([answer("config", "view", code=1, err="error: error loading config file x: yaml: bad\n")],
         (), 4, "kubectl failed: error loading config file x"),
        ([answer("config", "view", out={})], (), 4, "kubectl has no current context"),
        ([answer("get", "namespace", code=1,
                 err='Error from server (NotFound): namespaces "llm" not found\n')],
         (), 4, "the namespace llm does not exist"),
        ([answer("diff", code=2, err="error: You must be logged in to the server\n")], (), 4,
         "the cluster does not accept the credentials"),
        ([answer("apply", "--dry-run=server", code=1, err=CONFLICT)], (), 5,
         'kubectl-set owns .spec.template.spec.containers[name="triton"].image'),
        ([answer("kustomize", out=documents(job()))], (), 5, "has 0 Deployments, not one"),
        ([answer("kustomize", out=documents(
            {**deployment(), "metadata": {"name": "nano", "namespace": "other"}}))],
         ("--namespace", "llm"), 2, "the manifests name the namespace other"),
        ([answer("kustomize", out=documents(deployment()).replace("a" * 64, "c" * 64))], (), 5,
         "is for the bundle cccccccccc, not for this one"),
        ([], ("--overlay", "prod"), 2, "--overlay prod: the bundle has no such overlay"),
    ],
    ids=["garbled", "unreachable", "old-kubectl", "old-server", "context",
         "bad-config", "no-context",
         "namespace", "logged-out", "conflict", "no-deployment", "other-namespace",
         "other-bundle", "overlay"],
)  # fmt: skip
def test_what_cannot_be_deployed_is_one_message(
    capsys: pytest.CaptureFixture[str],
    cluster: Cluster,
    bundle: Path,
    answers: list[Answer],
    options: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    cluster.play(*answers)
    ended, out, err = deploy(capsys, bundle, *options)
    assert (ended, out) == (code, "")
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert cluster.applied() == []


def test_without_kubectl_nothing_is_deployed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    code, _, err = deploy(capsys, bundle)
    assert (code, "kubectl is missing; install it" in err) == (4, True)


@pytest.mark.parametrize("what", ["changed", "added", "missing"])
def test_manifests_that_are_not_the_build_s_are_refused(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path, what: str
) -> None:
    file = bundle / "k8s" / "kustomization.yaml"
    if what == "missing":
        file.unlink()
    elif what == "added":
        (file.parent / "extra.yaml").write_text("")
    else:
        file.write_text("resources: [x]\n")
    code, _, err = deploy(capsys, bundle)
    assert (code, "not as the build wrote it" in err) == (5, True)
    assert not (cluster.folder / "calls.jsonl").exists()


def test_an_incomplete_bundle_is_refused(
    capsys: pytest.CaptureFixture[str], cluster: Cluster, bundle: Path
) -> None:
    opened = Bundle.open(bundle)
    record = json.loads((bundle / "bundle.json").read_text())
    assert opened.complete
    (bundle / "bundle.json").write_text(json.dumps({**record, "complete": False}))
    code, _, err = deploy(capsys, bundle)
    assert (code, "this bundle is incomplete" in err) == (5, True)


@pytest.mark.parametrize(
    ("state", "folders", "note"),
    [
        ("loading", (), "The rollout goes on in the cluster."),
        (
            "filling",
            ("fill",),
            "The Job goes on filling the claim. The server has not been changed",
        ),
    ],
)
def test_an_interrupt_leaves_the_rollout_going(
    cluster: Cluster,
    tmp_path: Path,
    eventually: Callable[[Callable[[], object], str], None],
    state: str,
    folders: tuple[str, ...],
    note: str,
) -> None:
    bundle = make(tmp_path / "interrupted" / "nano", *folders)
    tree = answer("kustomize", out=documents(deployment(), *([job()] if folders else [])))
    cluster.play(answer("get", LISTED, hold=True), tree, state=state)
    process = subprocess.Popen(
        [sys.executable, "-m", "nemotron_deploy", "deploy", str(bundle)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy(),
    )  # fmt: skip
    eventually((cluster.folder / "held").exists, "kubectl was not called")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert f"interrupted. {note}" in err
    assert err.splitlines()[-1] == f"  nemo-deploy deploy {bundle}"
