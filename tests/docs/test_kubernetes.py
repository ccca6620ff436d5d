"""The page on deploying lists every cause of a stall, in the code's own words."""

from __future__ import annotations

from nemotron_deploy.k8s.deploy.diagnosis import CAUSES
from nemotron_deploy.k8s.deploy.kubectl import OLDEST_KUBECTL, OLDEST_SERVER
from nemotron_deploy.k8s.deploy.outage import ENGINE_START_S, READ_BYTES_PER_S
from nemotron_deploy.k8s.deploy.stages import FILLING, ROLLOUT
from nemotron_deploy.k8s.deploy.watch import NODE_S, SETTLE_S
from nemotron_deploy.k8s.loadtest.objects import KEPT_S, LONGEST_S, RESOURCES
from nemotron_deploy.k8s.loadtest.stages import STARTING
from nemotron_deploy.k8s.quantities import parse_quantity
from nemotron_deploy.tests.docs.pages import ROOT

PAGE = " ".join((ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8").split())


def test_the_page_has_every_cause() -> None:
    _, _, table = PAGE.partition("| cause | meaning | | --- | --- | ")
    rows = " ".join(f"| `{cause}` | {text} |" for cause, text in CAUSES.items())
    assert table.strip() == rows


def test_the_page_has_every_stage() -> None:
    for title in (*FILLING.values(), *ROLLOUT.values()):
        assert f"| {title} |" in PAGE or f"{title} |" in PAGE or f"| {title}," in PAGE
    assert f"those of its own pods: {', '.join(STARTING.values())}." in PAGE


def test_the_page_on_load_tests_has_the_limits_of_their_pods() -> None:
    page = " ".join((ROOT / "docs" / "loadtest.md").read_text(encoding="utf-8").split())
    hours, minutes = LONGEST_S // 3600, KEPT_S // 60
    assert f"the Job ends its pods after {hours} hours" in page
    assert f"Kubernetes deletes all of it {minutes} minutes later" in page
    requested = {name: parse_quantity(value) for name, value in RESOURCES["requests"].items()}
    memory = requested["memory"] / 2**20
    assert f"request {float(requested['cpu'])} processors and {memory} MiB each" in page


def test_the_page_s_numbers_are_the_code_s() -> None:
    kubectl, server = (f"{major}.{minor}" for major, minor in (OLDEST_KUBECTL, OLDEST_SERVER))
    assert f"`kubectl` {kubectl} or later, a cluster with Kubernetes {server} or later" in PAGE
    assert f"has lasted {SETTLE_S:.0f} seconds. For a missing node it is {NODE_S:.0f} s" in PAGE
    assert f"an assumed {READ_BYTES_PER_S // 10**6} MB/s, and {ENGINE_START_S} s" in PAGE
