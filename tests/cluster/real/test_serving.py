"""A bundle from nothing to served, and what happens to it then, on a node that runs it.

One namespace for all of it, in the order of this file: what is served at the end of a test is what
the next one begins with.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.tests.cluster.kubectl import wait_for
from nemotron_deploy.tests.cluster.real import jobs
from nemotron_deploy.tests.cluster.real.bundles import DEVELOPMENT, Bundles
from nemotron_deploy.tests.cluster.real.load import Load
from nemotron_deploy.tests.cluster.real.node import Namespace, eviction
from nemotron_deploy.tests.cluster.real.release import (
    FILLER,
    LOADER,
    OPENAI,
    TRITON,
    Release,
    digest,
    job_name,
)
from nemotron_deploy.triton_repo import local
from nemotron_deploy.triton_repo.openai import Endpoint

pytestmark = pytest.mark.cluster

RESTARTS = 10

LEVELS = 100
"""So many that a load test does not end before it is interrupted."""

CHAT = "<|im_start|>user\nRepeat: stone door<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = ["What is 2 + 3?", CHAT]
OTHER = "--context=2048"
"""The option that makes the second bundle another one."""


@pytest.fixture(scope="module")
def release(
    new_namespace: Callable[[], Namespace], tmp_path_factory: pytest.TempPathFactory
) -> Release:
    return Release(new_namespace(), tmp_path_factory.mktemp("overlays"), replicas=2)


def follow(namespace: Namespace, pod: str, container: str, text: str) -> None:
    """Read a container's log until it has `text`."""
    command = [*namespace.node.kubectl.command, "logs", "--follow", pod, f"--container={container}"]
    command.append(f"--namespace={namespace.name}")
    seen = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as logs:
        assert logs.stdout is not None
        for line in logs.stdout:
            seen.append(line)
            if text in line:
                logs.kill()
                return
    pytest.fail(f"the log of {pod} has no {text!r}:\n{''.join(seen)}")


def served_locally(bundle: Path) -> Any:
    """What `client.py` prints for the bundle served by this machine itself."""
    repository = bundle / "model_repository"
    with local.LocalServer(repository, executor="reference", openai=Endpoint("tiny")) as server:
        server.wait_ready(300)
        command = [sys.executable, jobs.CLIENT, server.grpc_url, server.openai_url]
        done = subprocess.run(
            [*map(str, command), json.dumps(PROMPTS)], check=True, capture_output=True, text=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def test_two_commands_serve_a_bundle_though_its_job_is_killed(
    release: Release, bundles: Bundles
) -> None:
    """`build` and `apply`; the Job goes on where it was killed, and clients get greedy tokens."""
    namespace, bundle = release.namespace, bundles.build()
    release.apply(bundle)
    job = f"job/{job_name(bundle)}"
    namespace.wait(job, "jsonpath={.status.active}=1")
    [pod] = namespace.pods(name=FILLER)
    name = pod["metadata"]["name"]
    namespace.wait(f"pod/{name}", "jsonpath={.status.phase}=Running")
    follow(namespace, name, "fill", '"step": "golden"')
    namespace.kill(pod, "fill")
    building = release.namespace.folder / ".building" / digest(bundle) / "bundle"
    finished = building / "checkpoint" / "model.safetensors"
    kept = finished.stat()
    namespace.wait(job, "condition=Complete")
    made = namespace.folder / digest(bundle) / "checkpoint" / "model.safetensors"
    assert (made.stat().st_ino, made.stat().st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)

    release.ready()
    assert release.served() == {digest(bundle)}
    [pod, _] = release.pods()
    log = namespace("logs", pod["metadata"]["name"], f"--container={TRITON}")
    assert "golden outputs" in log
    image = pod["spec"]["containers"][0]["image"]
    answers = jobs.answers(namespace, image, release.host, PROMPTS)
    assert answers == served_locally(bundle)


def load_command(release: Release, bundle: Path, *options: str) -> list[str]:
    """The command line of a load test from two pods beside the servers."""
    place = ("--in-cluster", "--overlay=dev", f"--namespace={release.namespace.name}", "--pods=2")
    words = ("loadtest", str(bundle), *place, "--requests=16", "--max-tokens=8", "--allow-late")
    return [sys.executable, "-m", "nemotron_deploy", *words, *options, "--json"]


def nothing_is_left(release: Release) -> bool:
    return not release.namespace.items(
        "jobs,pods,networkpolicies", f"--selector=app.kubernetes.io/name={LOADER}"
    )


def test_load_from_pods_beside_the_servers(release: Release, bundles: Bundles) -> None:
    bundle = bundles.build()
    done = subprocess.run(
        load_command(release, bundle, "--concurrency=4"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}\n{release.namespace.state()}"
    report = json.loads(done.stdout)
    [run] = report["runs"]
    assert (run["requests"], run["errors"], run["client"]["processes"]) == (16, 0, 2)
    assert json.loads(Path(report["kept"]).read_text())["url"] == f"grpc://{release.host}:8001"
    wait_for("nothing is left", lambda: nothing_is_left(release))


def test_an_interrupted_load_test_reports_and_leaves_nothing(
    release: Release, bundles: Bundles, tmp_path: Path
) -> None:
    samples, levels = tmp_path / "samples.jsonl", ",".join(["2"] * LEVELS)
    options = (f"--concurrency={levels}", f"--out={samples}")
    with subprocess.Popen(
        load_command(release, bundles.build(), *options),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_for("a level", lambda: process.poll() or (samples.exists() and samples.read_text()))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert 1 <= len(json.loads(out)["runs"]) < LEVELS
    wait_for("nothing is left", lambda: nothing_is_left(release))


def test_new_bundle_and_the_way_back_fail_no_request(release: Release, bundles: Bundles) -> None:
    """Under streams of several seconds, on two replicas."""
    first, second = bundles.build(), bundles.build(OTHER)
    assert digest(first) != digest(second)
    with Load(release.host) as load:
        release.apply(second)
        release.ready()
        assert release.served() == {digest(second)}
        release.namespace("rollout", "undo", f"deployment/{DEVELOPMENT}")
        release.ready()
        assert release.served() == {digest(first)}
    load.require_whole()


@pytest.mark.long
def test_rolling_restarts_fail_no_request(release: Release) -> None:
    with Load(release.host) as load:
        for _ in range(RESTARTS):
            release.namespace("rollout", "restart", f"deployment/{DEVELOPMENT}")
            release.ready()
    load.require_whole()


@pytest.mark.long
def test_evicted_pod_is_replaced_and_drains_leave_one_serving(release: Release) -> None:
    """The budget lets one pod go at a time; no request fails."""
    namespace = release.namespace
    selector = f"--pod-selector=app.kubernetes.io/instance={DEVELOPMENT}"
    drain = ("drain", namespace.node.name, selector, "--delete-emptydir-data", "--timeout=40s")
    with Load(release.host) as load:
        [gone, other] = [pod["metadata"]["name"] for pod in release.pods()]
        assert eviction(namespace, gone).returncode == 0
        refused = eviction(namespace, other)
        assert "disruption budget" in refused.stderr
        namespace.wait(f"pod/{gone}", "delete")
        release.ready()
        try:
            blocked = namespace.run(*drain)
            assert "disruption budget" in blocked.stderr
            assert len(release.served()) == 1
        finally:
            namespace("uncordon", namespace.node.name)
        release.ready()
    load.require_whole()


@pytest.mark.long
@pytest.mark.parametrize(
    ("container", "process"),
    [(TRITON, None), (TRITON, "triton_python_b"), (OPENAI, None)],
    ids=["server", "model", "sidecar"],
)
def test_killed_process_comes_back(release: Release, container: str, process: str | None) -> None:
    pod = release.pods()[0]
    name = pod["metadata"]["name"]
    [before] = [s for s in pod["status"]["containerStatuses"] if s["name"] == container]
    release.namespace.kill(pod, container, process)
    restarts = f'{{.status.containerStatuses[?(@.name=="{container}")].restartCount}}'
    release.namespace.wait(f"pod/{name}", f"jsonpath={restarts}={before['restartCount'] + 1}")
    release.namespace.wait(f"pod/{name}", "condition=Ready")
