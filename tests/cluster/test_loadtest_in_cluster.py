"""`loadtest --in-cluster` on a real API server and scheduler; kwok plays the nodes, so that no
container runs and the pods end at once: what is accepted, what is refused, and that nothing stays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.cli import run
from nemotron_deploy.k8s.loadtest.objects import job, policy
from nemotron_deploy.tests.cluster.made_bundle import NAME, make_bundle

pytestmark = pytest.mark.cluster

Kubectl = Any  # a fixture; its class stands in conftest.py
LOADER = "--selector=app.kubernetes.io/name=nemo-deploy-loadtest"


def test_a_load_test_needs_its_bundle_and_leaves_nothing(
    kubectl: Kubectl,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    binary, kubeconfig = Path(kubectl.command[0]), kubectl.command[1].partition("=")[2]
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    monkeypatch.setenv("PATH", f"{binary.parent}:/usr/bin:/bin")
    scope = f"--namespace={namespace}"
    bundle, other = make_bundle(tmp_path, "1"), make_bundle(tmp_path, "2")

    def loadtest(path: Path) -> tuple[int, str]:
        code = run(["loadtest", str(path), "--in-cluster", scope, "--pods=2", "--ready-timeout=3"])
        return code, capsys.readouterr().err

    code, message = loadtest(bundle)
    assert (code, "there is no deployment" in message) == (4, True), message
    kubectl("apply", "-k", bundle / "k8s", scope)
    kubectl("wait", f"deployment/{NAME}", "--for=condition=Available", "--timeout=90s", scope)
    code, message = loadtest(other)
    assert (code, "deploy that one (nemo-deploy deploy" in message) == (5, True), message

    # The API server warns of nothing, under the restricted Pod Security level either.
    [deployment] = kubectl.items("deployment", NAME, scope)
    made = job(deployment, "localhost/nemo-deploy:0.1.0", 2, "0123456789")
    words = ("create", "--dry-run=server", "--output=json", "--filename=-", scope)
    created = json.loads(kubectl(*words, stdin=json.dumps(made)))
    kubectl(*words, stdin=json.dumps(policy(created)))

    code, message = loadtest(bundle)
    assert code == 5, message
    events = kubectl.items("events", "--field-selector=involvedObject.kind=Job", scope)
    reasons = [event["reason"] for event in events if "-load-" in event["involvedObject"]["name"]]
    assert reasons.count("SuccessfulCreate") == 2
    kubectl.until(
        "nothing is left",
        lambda: not kubectl.items("jobs,pods,networkpolicies", LOADER, scope),
    )
