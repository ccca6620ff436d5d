"""Rules for Services and network policies: who reaches the pods, and whom they reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ...runtime.contract import GRPC, HTTP, METRICS_PORT, OPENAI
from .fields import Field
from .findings import ERROR, WARNING, Problem, Rule
from .object_set import KubeObject, ObjectSet, kind, workloads
from .workloads import Workload

_PUBLIC: Final = frozenset((GRPC.name, HTTP.name, OPENAI.name))
_EVERYWHERE: Final = ("0.0.0.0/0", "::/0")


def service_selector(service: KubeObject, objects: ObjectSet) -> Iterator[Problem]:
    """A Service that selects no pod has no endpoints, and refuses every connection."""
    selector = service.root.at("spec", "selector")
    if selector.mapping() and not _served(service, objects):
        yield selector.problem("selects no pod of these manifests")


def service_port(service: KubeObject, objects: ObjectSet) -> Iterator[Problem]:
    """A port that the pods do not have is never ready."""
    served = _served(service, objects)
    known = {port for workload in served for port in workload.ports()}
    for port in service.root.at("spec", "ports").items():
        target = port["targetPort"] if port["targetPort"].is_set else port["port"]
        value = target.number_or_text()
        if known and value is not None and value not in known:
            yield target.problem(f"the pods have no port {value}")


def service_private(service: KubeObject, objects: ObjectSet) -> Iterator[Problem]:
    """Metrics and health are not for clients."""
    for port in service.root.at("spec", "ports").items():
        target = port["targetPort"].number_or_text()
        if target in _private_ports(_served(service, objects)):
            yield port["targetPort"].problem(f"{target} is not for clients")


def _private_ports(served: list[Workload]) -> set[int | str]:
    """Names and numbers of all ports but those for clients."""
    private: set[int | str] = set()
    for workload in served:
        for container in workload.containers:
            for port in container.field["ports"].items():
                name = port["name"].text()
                if name not in _PUBLIC:
                    private |= {name, port["containerPort"].integer(0)}
    return private


def service_exposed(service: KubeObject, objects: ObjectSet) -> Iterator[Problem]:
    """Model servers ask nobody who he is."""
    if not (service.is_ours or any(w.is_server for w in _served(service, objects))):
        return
    spec = service.root["spec"]
    if spec["type"].text() in ("NodePort", "LoadBalancer"):
        yield spec["type"].problem("the server is reachable from outside the cluster")
    if spec["externalIPs"].items():
        yield spec["externalIPs"].problem("the server is reachable from outside the cluster")


def selector_mismatch(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """The API server refuses a workload whose selector does not select its own pods."""
    selector = workload.owner.root.at("spec", "selector")
    wanted = selector["matchLabels"].labels() if workload.is_long_running else {}
    if not wanted.items() <= workload.labels.items():
        yield selector["matchLabels"].problem("does not select the workload's own pods")


def selects_nothing(item: KubeObject, objects: ObjectSet) -> Iterator[Problem]:
    """A budget, a policy or a monitor that selects nothing protects nothing."""
    name = "podSelector" if item.kind == "NetworkPolicy" else "selector"
    selector = item.root.at("spec", name)
    if not objects.selected(selector):
        yield selector.problem("selects no pod of these manifests")


def selects_all(item: KubeObject, _: ObjectSet) -> Iterator[Problem]:
    """It is meant for the pods of one bundle, not for those of all others in the namespace."""
    name = "podSelector" if item.kind == "NetworkPolicy" else "selector"
    selector = item.root.at("spec", name)
    if not (selector["matchLabels"].mapping() or selector["matchExpressions"].items()):
        yield selector.problem("selects every pod of the namespace")


def policy_missing(workload: Workload, objects: ObjectSet) -> Iterator[Problem]:
    """Without a policy, everything in the cluster reaches the pods, and they reach everything. A
    policy that selects nothing is meant for some pods, and another rule finds it."""
    policies = objects.of_kind("NetworkPolicy")
    if not all(objects.selected(policy.root.at("spec", "podSelector")) for policy in policies):
        return
    open_to = [d for d in ("Ingress", "Egress") if not objects.policies(workload, d)]
    if open_to:
        yield workload.owner.metadata["name"].problem(
            f"no NetworkPolicy restricts {' or '.join(open_to)} of its pods"
        )


def policy_open(policy: KubeObject, _: ObjectSet) -> Iterator[Problem]:
    """A rule without peers, or for all of them, is no restriction. Metrics are the exception:
    Prometheus is in a namespace that the manifests do not know."""
    for rule in policy.root.at("spec", "ingress").items():
        ports = [port["port"].number_or_text() for port in rule["ports"].items()]
        peer = _open_peer(rule, "from")
        metrics = (METRICS_PORT.name, METRICS_PORT.number)
        if peer is not None and not (ports and all(port in metrics for port in ports)):
            yield peer.problem("every pod of the cluster may connect")


def egress_open(policy: KubeObject, _: ObjectSet) -> Iterator[Problem]:
    """A server that is taken over could send out what it is asked. A rule for some ports, such as
    that of a collector of traces, need not name the peer."""
    for rule in policy.root.at("spec", "egress").items():
        peer = _open_peer(rule, "to")
        if peer is not None and not rule["ports"].items():
            yield peer.problem("the pods may connect to everything")


def _open_peer(rule: Field, key: str) -> Field | None:
    """What lets everybody in, or out to everybody; None where the rule names peers."""
    if not rule[key].items():
        return rule[key]
    for peer in rule[key].items():
        if peer.at("ipBlock", "cidr").text() in _EVERYWHERE:
            return peer.at("ipBlock", "cidr")
        is_every: dict[str, Any] = {}
        spaces, pods = peer["namespaceSelector"], peer["podSelector"]
        if spaces.is_set and spaces.mapping() == is_every and not pods.mapping():
            return spaces
    return None


def policy_port(policy: KubeObject, objects: ObjectSet) -> Iterator[Problem]:
    """A port that the pods do not have lets nobody in."""
    selected = objects.selected(policy.root.at("spec", "podSelector"))
    known = {port for workload in selected for port in workload.ports()}
    for rule in policy.root.at("spec", "ingress").items():
        for entry in rule["ports"].items():
            value = entry["port"].number_or_text()
            is_range = entry["endPort"].is_set
            if known and value is not None and not is_range and value not in known:
                yield entry["port"].problem(f"the selected pods have no port {value}")


def _served(service: KubeObject, objects: ObjectSet) -> list[Workload]:
    """The workloads whose pods a Service selects."""
    wanted = service.root.at("spec", "selector").labels()
    return [
        w
        for w in objects.workloads
        if wanted and wanted.items() <= w.labels.items() and w.owner.shares_namespace(service)
    ]


_SELECTING: Final = ("PodDisruptionBudget", "NetworkPolicy", "PodMonitor")

RULES: Final[tuple[Rule[Workload] | Rule[KubeObject], ...]] = (
    Rule(
        "service-selector",
        kind("Service"),
        service_selector,
        "Use the labels of the pod template",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "service-port",
        kind("Service"),
        service_port,
        "Name a port of the pods",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule("service-private", kind("Service"), service_private, "Remove the port"),
    Rule(
        "service-exposed",
        kind("Service"),
        service_exposed,
        "Use ClusterIP, behind a gateway with TLS and authentication",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "selector-mismatch",
        workloads,
        selector_mismatch,
        "Use the labels of the pod template",
        ERROR,
        ERROR,
        ERROR,
    ),
    Rule(
        "selects-nothing",
        kind(*_SELECTING),
        selects_nothing,
        "Use the labels of the pod template",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule("selects-all", kind(*_SELECTING), selects_all, "Use the labels of the pod template"),
    Rule(
        "policy-missing",
        workloads,
        policy_missing,
        "Add a NetworkPolicy for both directions that selects the pods",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "policy-open",
        kind("NetworkPolicy"),
        policy_open,
        "Name the pods or namespaces that may connect",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "egress-open",
        kind("NetworkPolicy"),
        egress_open,
        "Name the pods or namespaces that it may connect to",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "policy-port",
        kind("NetworkPolicy"),
        policy_port,
        "Name a port of the pods",
        ERROR,
        WARNING,
        WARNING,
    ),
)
