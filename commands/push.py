"""`push`: copies a bundle to a claim in a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from . import kubectl_options as kube
from . import options as opt
from .terminal import console, printed, progress


def push(
    bundle: opt.BundleArgument,
    context: kube.KubeContextOption = None,
    namespace: kube.NamespaceOption = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            metavar="IMAGE",
            help="Image of the pod that takes the bundle over; needs python3. Default: the "
            "servers' image.",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep",
            metavar="N",
            min=1,
            help="Other bundles that stay on the claim, those used last. Default: as built.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="How long the pod may take to run.")
    ] = 1800,
    as_json: opt.JsonOption = False,
) -> None:
    """Copy a bundle to the claim of its manifests, in chunks that are checked.

    A small pod without a GPU takes it over; the claim is made where there is none. If the
    connection breaks, it is made again; if the command is ended, the same command resumes it.
    """
    from ..api.push import push as work

    with progress(as_json) as listener:
        result = work(
            bundle,
            context=context,
            namespace=namespace,
            image=image,
            keep=keep,
            timeout=timeout,
            progress=listener,
        )
    if not printed(as_json, result.to_json()):
        from ..views.weights import pushed

        pushed(console(), result)
