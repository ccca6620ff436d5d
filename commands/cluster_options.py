"""Options about the cluster that a bundle is deployed to."""

from __future__ import annotations

from typing import Annotated

import typer

WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="WAY",
        help="How the weights get to the pods: job (a Job in the cluster builds the bundle), claim "
        "(nemo-deploy push) or image (nemo-deploy image). Default: job, or claim where the "
        "checkpoint is local.",
    ),
]
PlatformOption = Annotated[
    str,
    typer.Option(
        "--platform",
        metavar="PLATFORM",
        help="generic, gke, gke-autopilot, eks, aks or openshift.",
    ),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        metavar="NAME",
        help="Namespace of all objects. Default: that of kubectl's context.",
    ),
]
StorageClassOption = Annotated[
    str | None,
    typer.Option(
        "--storage-class",
        metavar="NAME",
        help="Storage class of the claim. Default: the cluster's.",
    ),
]
RuntimeClassOption = Annotated[
    str | None,
    typer.Option(
        "--runtime-class",
        metavar="NAME",
        help="Runtime class of the serving pods, for example nvidia on k3s and RKE2.",
    ),
]
RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="HOST/FOLDER",
        help="Registry of nemo-deploy's own image and of bundle images. Default: localhost.",
    ),
]
Ipv6Option = Annotated[
    bool,
    typer.Option("--ipv6", help="Listen on IPv6 addresses."),
]
ReplicasOption = Annotated[
    int,
    typer.Option("--replicas", metavar="N", min=1, help="Number of serving pods."),
]
SurgeOption = Annotated[
    bool,
    typer.Option(
        "--surge",
        help="Start the new pod of a rollout first, on a spare GPU.",
    ),
]
AutoscaleOption = Annotated[
    str | None,
    typer.Option(
        "--autoscale",
        metavar="MIN:MAX",
        help="Scale the number of pods with the queue, for example 1:4.",
    ),
]
AutoscalerOption = Annotated[
    str,
    typer.Option(
        "--autoscaler",
        metavar="KIND",
        help="What scales: keda, or hpa with a metrics adapter.",
    ),
]
PrometheusOption = Annotated[
    str,
    typer.Option(
        "--prometheus",
        metavar="URL",
        help="Where KEDA asks for metrics.",
    ),
]
DraOption = Annotated[
    bool,
    typer.Option(
        "--dra",
        help="Claim GPUs by dynamic resource allocation (Kubernetes 1.34).",
    ),
]
GatewayOption = Annotated[
    str | None,
    typer.Option(
        "--gateway",
        metavar="[NAMESPACE/]NAME",
        help="Gateway that gets a route to the OpenAI endpoint.",
    ),
]
HostnameOption = Annotated[
    str | None,
    typer.Option("--hostname", metavar="HOST", help="Host name of that route."),
]
TokenSecretOption = Annotated[
    str,
    typer.Option(
        "--token-secret",
        metavar="NAME",
        help="Secret whose entry `token` the Job uses on the Hugging Face hub.",
    ),
]
KeepOption = Annotated[
    int,
    typer.Option(
        "--keep",
        metavar="N",
        help="Bundles that the claim keeps, the served one included.",
    ),
]
