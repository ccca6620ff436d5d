"""`deploy`: applies a bundle's manifests and watches the rollout."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import CheckFailedError
from . import kubectl_options as kube
from . import options as opt
from .terminal import console, printed

if TYPE_CHECKING:
    from ..api.deploy import Listener


def deploy(
    bundle: opt.BundleArgument,
    context: kube.KubeContextOption = None,
    namespace: kube.NamespaceOption = None,
    overlay: kube.OverlayOption = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Compare, check what the cluster would refuse, and change nothing."
        ),
    ] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait",
            help="Watch until the server is ready. With --no-wait, a claim that is not filled yet "
            "is filled first: run the command again to change the server.",
            show_default=False,
        ),
    ] = True,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            help="Longest wait. Default: 7200, and no limit while a Job fills the claim.",
        ),
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Apply a bundle's manifests to a cluster and watch the rollout.

    Shows what changes and whether that interrupts the service, applies it with kubectl, and
    follows the new server until it is ready. Where it does not get ready, says why. Where a Job
    fills the claim, that is done first, while an older bundle goes on serving.
    """
    from ..api.deploy import deploy as work

    with _view(as_json) as listener:
        result = work(
            bundle,
            context=context,
            namespace=namespace,
            overlay=overlay,
            dry_run=dry_run,
            wait=wait,
            timeout=timeout,
            listener=listener,
        )
    if not printed(as_json, result.to_json()):
        from ..views.deploy import deployed

        deployed(console(), result)
    if not result.ok:
        raise typer.Exit(CheckFailedError.exit_code)


def _view(as_json: bool) -> AbstractContextManager[Listener | None]:
    """What shows the rollout; nothing where only JSON is wanted."""
    if as_json:
        return nullcontext()
    from ..views.deploy import Shown

    return Shown(console())
