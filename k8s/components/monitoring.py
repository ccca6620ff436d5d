"""The component `monitoring`: a PodMonitor, alerts and a dashboard.

It is not applied by default, because it needs the Prometheus operator's kinds and Grafana. Every
name of a metric comes from the runtime's contract.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ...model.spec import Deployment
from ...runtime.contract import (
    INTER_TOKEN_TIME,
    KV_CACHE_OCCUPANCY,
    MAMBA_STATE_OCCUPANCY,
    METRICS_PORT,
    OUTPUT_TOKENS,
    PROMPT_TOKENS,
    QUEUE_TIME,
    REQUESTS,
    RUNNING,
    TIME_TO_FIRST_TOKEN,
    WAITING,
    Metric,
)
from ..names import APP, INSTANCE, SERVER, labels
from ..yaml_text import Object
from .component import Component

_DASHBOARD: Final = "dashboard.json"


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert: it fires after `minutes` in which `expression` had a result. In the expression,
    SELECTED stands for the labels that select one model."""

    name: str
    severity: str
    summary: str
    expression: str
    minutes: int


_SELECTED: Final = "SELECTED"


def _rate(metric: str, window: str = "5m", more: str = "", by: str = "namespace, model") -> str:
    return f"sum by ({by}) (rate({metric}{{{_SELECTED}{more}}}[{window}]))"


def _share(outcome: str) -> str:
    """The share of requests with an outcome."""
    assert outcome in REQUESTS.values
    part = _rate(REQUESTS.name, more=f', {REQUESTS.label}="{outcome}"')
    return f"{part} / {_rate(REQUESTS.name)}"


def _quantile(share: float, metric: Metric, window: str = "5m") -> str:
    buckets = _rate(f"{metric.name}_bucket", window, by="namespace, model, le")
    return f"histogram_quantile({share:g}, {buckets})"


ALERTS: Final = (
    Alert(
        "NemoDeployErrors", "critical",
        "more than 1 % of the requests end with an error of the server",
        f"{_share('error')} > 0.01", 5,
    ),
    Alert(
        "NemoDeployStalled", "critical",
        "a pod has running sequences and generates no tokens",
        f"{RUNNING.name}{{{_SELECTED}}} > 0 and on (namespace, pod) "
        f"{_rate(OUTPUT_TOKENS.name, '2m', by='namespace, pod')} == 0", 2,
    ),
    Alert(
        "NemoDeployNoMetrics", "critical",
        "no pod reports metrics: none runs, or Prometheus does not reach them",
        f"absent({RUNNING.name}{{{_SELECTED}}})", 10,
    ),
    Alert(
        "NemoDeployOverloaded", "warning",
        "more than 1 % of the requests are refused because the queue is full",
        f"{_share('overloaded')} > 0.01", 10,
    ),
    Alert(
        "NemoDeployDeadlines", "warning",
        "more than 5 % of the requests end at their deadline",
        f"{_share('deadline')} > 0.05", 10,
    ),
    Alert(
        "NemoDeployQueueSlow", "warning",
        "a tenth of the requests wait for more than 10 s",
        f"{_quantile(0.9, QUEUE_TIME)} > 10", 10,
    ),
    Alert(
        "NemoDeployFirstTokenSlow", "warning",
        "a twentieth of the answers begin after more than 10 s",
        f"{_quantile(0.95, TIME_TO_FIRST_TOKEN)} > 10", 10,
    ),
    Alert(
        "NemoDeployTokensSlow", "warning",
        "a hundredth of the tokens come more than 1 s after the one before",
        f"{_quantile(0.99, INTER_TOKEN_TIME)} > 1", 10,
    ),
    Alert(
        "NemoDeployCacheFull", "warning",
        "more than 95 % of a pod's KV cache is in use",
        f"{KV_CACHE_OCCUPANCY.name}{{{_SELECTED}}} > 0.95", 15,
    ),
)  # fmt: skip
"""Every alert, the critical ones first."""

_PANELS: Final[tuple[tuple[str, str, Mapping[str, str]], ...]] = (
    (
        "Requests by outcome", "reqps",
        {f"{{{{{REQUESTS.label}}}}}": _rate(REQUESTS.name, by=REQUESTS.label)},
    ),
    (
        "Tokens", "short",
        {
            "prompts": _rate(PROMPT_TOKENS.name, by="model"),
            "answers": _rate(OUTPUT_TOKENS.name, by="model"),
        },
    ),
    (
        "Running and waiting", "short",
        {
            "running": f"sum by (model) ({RUNNING.name}{{{_SELECTED}}})",
            "waiting": f"sum by (model) ({WAITING.name}{{{_SELECTED}}})",
        },
    ),
    *(
        (title, "s", {f"p{share * 100:g}": _quantile(share, metric) for share in (0.5, 0.9, 0.99)})
        for title, metric in (
            ("Time in the queue", QUEUE_TIME),
            ("Time to the first token", TIME_TO_FIRST_TOKEN),
            ("Time between tokens", INTER_TOKEN_TIME),
        )
    ),
    (
        "KV cache", "percentunit", {"{{pod}}": f"{KV_CACHE_OCCUPANCY.name}{{{_SELECTED}}}"},
    ),
    (
        "Mamba states", "percentunit", {"{{pod}}": f"{MAMBA_STATE_OCCUPANCY.name}{{{_SELECTED}}}"},
    ),
)  # fmt: skip
"""Title, unit, and expressions by legend."""


def dashboard() -> dict[str, Any]:
    """The dashboard for Grafana, for any number of bundles."""
    selected = 'namespace=~"$namespace", model=~"$model"'
    source = {"type": "prometheus", "uid": "${datasource}"}

    def variable(name: str) -> dict[str, Any]:
        query = f"label_values({RUNNING.name}, {name})"
        return {
            "name": name, "type": "query", "datasource": source, "query": query, "refresh": 2,
            "includeAll": True, "multi": True, "current": {"text": "All", "value": "$__all"},
        }  # fmt: skip

    panels = [
        {
            "id": number + 1,
            "title": title,
            "type": "timeseries",
            "datasource": source,
            "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
            "targets": [
                {
                    "refId": chr(ord("A") + place),
                    "datasource": source,
                    "expr": expression.replace(_SELECTED, selected),
                    "legendFormat": legend,
                }
                for place, (legend, expression) in enumerate(targets.items())
            ],
        }
        for number, (title, unit, targets) in enumerate(_PANELS)
    ]
    return {
        "uid": "nemo-deploy",
        "title": "nemo-deploy",
        "schemaVersion": 39,
        "editable": True,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                variable("namespace"),
                variable("model"),
            ]
        },
        "panels": panels,
    }


def monitoring(deployment: Deployment) -> Component:
    """The component of a bundle."""
    name = deployment.name
    metadata = {"name": name, "labels": labels(name)}
    pods = {"key": INSTANCE, "operator": "In", "values": [name, f"{name}-dev"]}
    monitor = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": {APP: SERVER}, "matchExpressions": [pods]},
            "podMetricsEndpoints": [{"port": METRICS_PORT.name}],
        },
    }
    selected = f'model="{deployment.model_name}"'
    rules = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": metadata,
        "spec": {
            "groups": [
                {"name": name, "rules": [_rule(alert, selected, deployment) for alert in ALERTS]}
            ]
        },
    }
    objects = {"podmonitor.yaml": monitor, "prometheusrule.yaml": rules}
    dashboards = {
        "name": f"{name}-dashboard",
        "files": [_DASHBOARD],
        "options": {"disableNameSuffixHash": True, "labels": {"grafana_dashboard": "1"}},
    }
    return Component(
        "monitoring",
        _MONITORING_COMMENT,
        {"resources": [*objects], "configMapGenerator": [dashboards]},
        objects,
        {_DASHBOARD: json.dumps(dashboard(), indent=2) + "\n"},
    )


_MONITORING_COMMENT: Final = """\
Metrics, alerts and a dashboard. Requires the kinds PodMonitor and PrometheusRule of the Prometheus
operator. Grafana finds the dashboard where its sidecar watches for the label grafana_dashboard;
dashboard.json can also be imported by hand. Add it in your own overlay:
    resources: [PATH/k8s]
    components: [PATH/k8s/components/monitoring]
Where the operator selects monitors and rules by a label (kube-prometheus-stack: release), add that
label there as well. Without the operator, Prometheus finds the pods by their annotations."""


def _rule(alert: Alert, selected: str, deployment: Deployment) -> Object:
    return {
        "alert": alert.name,
        "expr": alert.expression.replace(_SELECTED, selected),
        "for": f"{alert.minutes}m",
        "labels": {"severity": alert.severity},
        "annotations": {"summary": f"{deployment.model_name}: {alert.summary}."},
    }
