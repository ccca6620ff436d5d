"""The components: alerts and dashboard name metrics that exist, and kubectl can add them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from nemotron_deploy.k8s.components.monitoring import ALERTS, dashboard
from nemotron_deploy.runtime import contract

Emit = Callable[..., Path]

SERIES = {one.name for metric in contract.METRICS for one in contract.series(metric)}
NAME = "nemotron-3-nano-30b-a3b-h100-int4"
POD = '{model="nemotron-3-nano-30b-a3b", namespace="n", pod="p"}'


def _named(text: str) -> set[str]:
    return set(re.findall(r"\bnemo_deploy_\w+", text))


def test_every_metric_that_is_named_exists() -> None:
    alerts = _named(" ".join(alert.expression for alert in ALERTS))
    panels = _named(json.dumps(dashboard()))
    assert alerts
    assert alerts | panels <= SERIES
    shown = {metric.name for metric in contract.METRICS if any(metric.name in p for p in panels)}
    assert shown == {metric.name for metric in contract.METRICS}


def test_outcomes_that_are_named_exist() -> None:
    named = re.findall(r'outcome="(\w+)"', " ".join(alert.expression for alert in ALERTS))
    assert set(named) <= contract.REQUESTS.values.keys()
    assert len(named) >= 3


def _component(tree: Path, name: str) -> list[dict[str, Any]]:
    """The whole of an overlay with a component, as kubectl renders it."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl on the PATH")
    own = tree.parent
    (own / "kustomization.yaml").write_text(
        f"resources: [k8s]\ncomponents: [k8s/components/{name}]\n"
    )
    done = subprocess.run(
        [kubectl, "kustomize", str(own)], capture_output=True, text=True, check=True, timeout=60
    )
    return list(yaml.safe_load_all(done.stdout))


def _one(documents: list[dict[str, Any]], kind: str, name: str = NAME) -> dict[str, Any]:
    (document,) = (d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name))
    return document


def test_monitoring_finds_the_pods_of_every_overlay(emit: Emit) -> None:
    documents = _component(emit(), "monitoring")
    monitor = _one(documents, "PodMonitor")["spec"]
    (expression,) = monitor["selector"]["matchExpressions"]
    pod = _one(documents, "Deployment")["spec"]["template"]
    assert pod["metadata"]["labels"][expression["key"]] in expression["values"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert endpoint["port"] in ports
    shown = _one(documents, "ConfigMap", f"{NAME}-dashboard")
    assert json.loads(shown["data"]["dashboard.json"]) == dashboard()
    assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_tracing_adds_flags_and_lets_traces_out(emit: Emit) -> None:
    documents = _component(emit(), "tracing")
    container = _one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert "--trace-config=mode=opentelemetry" in container["args"]
    (url,) = (a for a in container["args"] if a.startswith("--trace-config=opentelemetry,url="))
    egress = _one(documents, "NetworkPolicy")["spec"]["egress"]
    allowed = {port["port"] for rule in egress for port in rule["ports"]}
    assert int(url.rsplit(":", 1)[1].split("/")[0]) in allowed


def test_tracing_of_the_endpoint_switches_its_spans_on(emit: Emit) -> None:
    documents = _component(emit(), "openai-tracing")
    container = _one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][1]
    assert "--traces" in container["args"]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    collector = urlsplit(values["OTEL_EXPORTER_OTLP_ENDPOINT"])
    egress = _one(documents, "NetworkPolicy")["spec"]["egress"]
    assert collector.port in {port["port"] for rule in egress for port in rule["ports"]}
    assert set(values) - {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "NVIDIA_VISIBLE_DEVICES"} <= {
        variable.name for variable in contract.TRACING
    }


def test_keys_are_optional_unless_the_component_requires_them(emit: Emit) -> None:
    tree = emit()
    secret = {"secretName": f"{NAME}-api-keys", "defaultMode": 0o440}
    shipped = list(yaml.safe_load_all((tree / "rendered/default.yaml").read_text()))
    container, volume = _endpoint(shipped)
    assert volume["secret"] == {**secret, "optional": True}
    assert "--without-keys" in container["args"]
    container, volume = _endpoint(_component(tree, "api-keys"))
    assert volume["secret"] == {**secret, "optional": False}
    assert "--without-keys" not in container["args"]
    (file,) = (a for a in container["args"] if a.startswith("--api-keys="))
    assert file.endswith("/keys")


def _endpoint(documents: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The container of the endpoint, and its volume of keys."""
    pod = _one(documents, "Deployment")["spec"]["template"]["spec"]
    (container,) = (c for c in pod["containers"] if c["name"] == "openai")
    (volume,) = (v for v in pod["volumes"] if v["name"] == "api-keys")
    return container, volume


def test_nothing_of_them_is_applied_by_default(emit: Emit) -> None:
    text = (emit() / "rendered" / "default.yaml").read_text()
    assert "monitoring.coreos.com" not in text
    assert "trace" not in text


@pytest.fixture
def promtool(emit: Emit, tmp_path: Path) -> Callable[..., str]:
    """Run `promtool` beside the rules of a bundle, in `rules.yaml`."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool on the PATH")
    rule = yaml.safe_load((emit() / "components/monitoring/prometheusrule.yaml").read_text())
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_prometheus_accepts_the_rules(promtool: Callable[..., str]) -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", "rules.yaml")


REQUESTS = contract.REQUESTS.name


def _requests(outcome: str, values: str) -> tuple[str, str]:
    return f'{REQUESTS}{POD[:-1]}, outcome="{outcome}"}}', values


def _times(metric: contract.Metric, below: float, share: int) -> list[tuple[str, str]]:
    """Sixty values a minute, `share` of them below a bucket's bound."""
    buckets = {f"{below:g}": share, f"{metric.buckets[-2]:g}": 60, "+Inf": 60}
    return [
        (f'{metric.name}_bucket{POD[:-1]}, le="{bound}"}}', f"0+{count}x60")
        for bound, count in buckets.items()
    ]


GENERATING = [
    (contract.RUNNING.name + POD, "3x60"),
    (contract.OUTPUT_TOKENS.name + POD, "0+60x60"),
]
CASES: dict[str, tuple[list[tuple[str, str]], set[str]]] = {
    "generating": (GENERATING, set()),
    "stalled": (
        [(contract.RUNNING.name + POD, "3x60"), (contract.OUTPUT_TOKENS.name + POD, "500x60")],
        {"NemoDeployStalled"},
    ),
    "errors": (
        [
            (contract.RUNNING.name + POD, "0x60"),
            (contract.OUTPUT_TOKENS.name + POD, "500x60"),
            (contract.KV_CACHE_OCCUPANCY.name + POD, "0.97x60"),
            _requests("stop", "0+90x60"),
            _requests("error", "0+5x60"),
            _requests("overloaded", "0+5x60"),
        ],
        {"NemoDeployErrors", "NemoDeployOverloaded", "NemoDeployCacheFull"},
    ),
    "late": (
        [*GENERATING, _requests("stop", "0+90x60"), _requests("deadline", "0+10x60")],
        {"NemoDeployDeadlines"},
    ),
    "queue": ([*GENERATING, *_times(contract.QUEUE_TIME, 10, 50)], {"NemoDeployQueueSlow"}),
    "first": (
        [*GENERATING, *_times(contract.TIME_TO_FIRST_TOKEN, 10, 55)],
        {"NemoDeployFirstTokenSlow"},
    ),
    "tokens": ([*GENERATING, *_times(contract.INTER_TOKEN_TIME, 2.5, 5)], {"NemoDeployTokensSlow"}),
    "fast": (
        [
            *GENERATING,
            *_times(contract.QUEUE_TIME, 10, 60),
            *_times(contract.TIME_TO_FIRST_TOKEN, 10, 60),
            *_times(contract.INTER_TOKEN_TIME, 0.1, 60),
            (contract.KV_CACHE_OCCUPANCY.name + POD, "0.9x60"),
            _requests("stop", "0+900x60"),
            _requests("deadline", "0+1x60"),
            _requests("error", "0+1x60"),
            _requests("overloaded", "0+1x60"),
        ],
        set(),
    ),
    "nothing": ([], {"NemoDeployNoMetrics"}),
}
"""Series, and the alerts that fire with them."""


def test_each_alert_fires_once() -> None:
    fired = [name for _, firing in CASES.values() for name in firing]
    assert sorted(fired) == sorted(alert.name for alert in ALERTS)


@pytest.mark.parametrize("case", CASES)
def test_alerts_fire_when_they_should(
    promtool: Callable[..., str], tmp_path: Path, case: str
) -> None:
    """Half an hour of values, one a minute: what fires at its end, and what does not."""
    series, firing = CASES[case]
    asked = [
        f'count(ALERTS{{alertname="{alert.name}", alertstate="firing"}}) or vector(0)'
        for alert in ALERTS
    ]
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series],
                "promql_expr_test": [
                    {
                        "expr": expression,
                        "eval_time": "30m",
                        "exp_samples": [{"labels": "{}", "value": int(alert.name in firing)}],
                    }
                    for alert, expression in zip(ALERTS, asked, strict=True)
                ],
            }
        ],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    promtool("test", "rules", "tests.yaml")
