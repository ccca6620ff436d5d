"""Options of commands that call kubectl."""

from __future__ import annotations

from typing import Annotated

import typer

KubeContextOption = Annotated[
    str | None,
    typer.Option(
        "--context",
        metavar="CONTEXT",
        help="Context of kubectl's configuration. Default: the current one.",
    ),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NAME",
        help="Namespace. Default: the one that the manifests name, else the context's.",
    ),
]
OverlayOption = Annotated[
    str | None,
    typer.Option(
        "--overlay",
        metavar="NAME",
        help="Apply this folder of k8s/overlays instead of k8s itself, for example dev.",
    ),
]
DeployedOverlayOption = Annotated[
    str | None,
    typer.Option(
        "--overlay",
        metavar="NAME",
        help="The folder of k8s/overlays that is deployed instead of k8s itself, for example dev.",
    ),
]
